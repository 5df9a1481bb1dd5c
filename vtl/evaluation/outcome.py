"""The outcome of a run: the scores and metrics of every split, written down and printed."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from vtl.console import say
from vtl.evaluation import metrics
from vtl.run_directory import RunDirectory


class Labelled(Protocol):
    """What a split needs to be scored; ids and difficult may be None."""

    @property
    def ids(self) -> Sequence[str] | None:
        """[N]."""

    @property
    def labels(self) -> np.ndarray:
        """[N, C] in {0, 1}."""

    @property
    def difficult(self) -> np.ndarray | None:
        """[N, C] in {0, 1}."""


def was_finished(
    run_directory: RunDirectory, show: Callable[[RunDirectory], None] | None = None
) -> bool:
    """Whether the run is already finished; if so, say it and print its outcome with `show`."""
    if not run_directory.is_finished:
        return False
    say(f"{run_directory.path} is finished; choose another --workdir to run again. Its outcome:")
    (show or show_outcome)(run_directory)
    return True


def score_splits(
    run_directory: RunDirectory,
    logits: Mapping[str, np.ndarray],
    splits: Mapping[str, Labelled],
    classes: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Write the logits [N, C] and scores of every split, by role; return its metrics.

    The metrics are laid out as in results.json. `seed` is for the bootstrap of the intervals.
    """
    outcome = {}
    for role, split in splits.items():
        scores = probabilities(logits[role])
        run_directory.write_scores(
            role, split.ids, classes, scores, logits[role], split.labels, split.difficult
        )
        outcome[role] = metrics.evaluate_scores(
            scores, split.labels, split.difficult, classes, ranked_by=logits[role], seed=seed
        )
    return split_last(outcome)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The sigmoid of each logit, float32: the scores of photos that may have several labels."""
    return np.asarray(jax.nn.sigmoid(logits))


def split_last(outcome: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Turn split -> quantity -> value into quantity -> split -> value, as in results.json."""
    quantities = next(iter(outcome.values()))
    return {
        quantity: {role: outcome[role][quantity] for role in outcome} for quantity in quantities
    }


def headline_split(roles: Collection[str]) -> str:
    """The split that a run is judged by: test, or the last one if there is no test."""
    return "test" if "test" in roles else list(roles)[-1]


def show_outcome(run_directory: RunDirectory) -> None:
    """Print the table of the headline split, then mAP, accuracy and loss of every split."""
    results = run_directory.read_results()
    roles = list(results["map"])
    headline = headline_split(roles)
    outcome = {
        quantity: by_split[headline]
        for quantity, by_split in results.items()
        if quantity in metrics.QUANTITIES
    }
    say(f"\nOn {headline}:")
    say(metrics.format_table(outcome, results["classes"]))
    for role in roles:
        means = results["map"][role]
        parts = [f"{name} {100 * mean:.1f}" for name, mean in means.items() if mean is not None]
        accuracy, loss = results["binary_accuracy"][role], results["loss"][role]
        shown = ", ".join(parts) or "none, because no class has a positive"
        say(f"mAP on {role}: {shown}; binary accuracy {accuracy:.2%}, loss {loss:.4f}")
    say(f"Everything is in {run_directory.path}.")
    say(f"To see it as a page: python -m vtl.report {run_directory.path} -o report.html")
