"""Comparing what another runtime computes with what vtl does."""

import dataclasses
from typing import Any

import numpy as np

from vtl import decisions
from vtl.errors import UserError
from vtl.export.reference import Outputs
from vtl.weights.sources import Weights

LIMIT = 1e-4
"""The largest difference of a probability in float32 that is rounding alone; usual is 1e-6."""

RESIZE_LIMIT = 0.1
"""The same where another resize rounds some pixels by one, which a network may make more of."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far the probabilities of one runtime are from others, photo by photo."""

    runtime: str
    num_photos: int
    photos: str
    largest_difference: float
    changed_answers: int
    """Of all photos and classes: how often one says yes and the other no."""

    def record(self) -> dict[str, Any]:
        """For a file's metadata."""
        return dataclasses.asdict(self)

    def words(self) -> str:
        """One line for people."""
        changed = "the same answers"
        if self.changed_answers:
            changed = f"{self.changed_answers} other answers"
        return (
            f"{self.runtime}, {self.photos}: probabilities differ by at most "
            f"{self.largest_difference:.1e}, {changed}"
        )


def compare(
    runtime: str, ours: Outputs, theirs: Outputs, weights: Weights, photos: str
) -> Comparison:
    """`theirs` beside `ours`; a difference that is no number is infinite.

    Raises:
        UserError: the outputs have other shapes.
    """
    if theirs.probabilities.shape != ours.probabilities.shape:
        raise UserError(
            f"{runtime} gives probabilities {theirs.probabilities.shape} and vtl "
            f"{ours.probabilities.shape}: nothing was written"
        )
    gap = np.abs(theirs.probabilities - ours.probabilities)
    largest = float(gap.max()) if np.isfinite(gap).all() else float("inf")
    given = [
        decisions.answers(
            outputs.probabilities, weights.decisions, one_label_each=not weights.multi_label
        )
        for outputs in (ours, theirs)
    ]
    return Comparison(runtime, len(gap), photos, largest, int((given[0] != given[1]).sum()))


def refuse_other(comparison: Comparison, limit: float = LIMIT) -> None:
    """UserError if the difference is more than rounding."""
    if not comparison.largest_difference <= limit:
        raise UserError(
            f"{comparison.runtime} computes something else than vtl: probabilities differ by up to "
            f"{comparison.largest_difference:.1e}\nNothing was written. Try another version of "
            f"{comparison.runtime.partition(' ')[0]}, or another format."
        )
