"""The outcome of a run: every split scored and written down, and shown to people."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from vtl.console import say
from vtl.evaluation import metrics
from vtl.run_directory import RunDirectory
from vtl.schema import of_file
from vtl.untrusted import escaped


class Labelled(Protocol):
    """What a split must have to be scored; ids and difficult may be None."""

    @property
    def ids(self) -> Sequence[str] | None:
        """[N]."""

    @property
    def labels(self) -> np.ndarray:
        """[N, C] in {0, 1}."""

    @property
    def difficult(self) -> np.ndarray | None:
        """[N, C] in {0, 1}."""


Content = Callable[[], Mapping[str, Any]]
"""What a run is made of, by hash, as far as that can be had without fetching anything."""


def was_finished(
    run_directory: RunDirectory,
    content: Content,
    format_results: Callable[[RunDirectory, dict[str, Any]], str] | None = None,
) -> bool:
    """Whether the run is finished already; says so, and shows its outcome by `format_results`.

    Raises:
        UserError: it was made of something else than there is now, or its files were changed.
    """
    if not run_directory.is_finished:
        return False
    run_directory.check_finished(content)
    path = run_directory.path / "results.json"
    with of_file(path):
        shown = (format_results or format_outcome)(run_directory, run_directory.read_results())
    say(f"{run_directory.path} is finished; choose another --workdir to run again. Its outcome:")
    say("\n".join(map(escaped, shown.split("\n"))))
    return True


def score_splits(
    run_directory: RunDirectory,
    logits: Mapping[str, np.ndarray],
    splits: Mapping[str, Labelled],
    classes: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Score every split, by role, from its logits [N, C]; write them, and return what results.json
    has of it.

    `seed` is that of the intervals' bootstrap.
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
    """The scores of several labels a photo: each logit's sigmoid, float32."""
    return np.asarray(jax.nn.sigmoid(logits))


def split_last(outcome: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`metrics.evaluate_scores` by split -> by quantity, then split, as results.json has it."""
    quantities = next(iter(outcome.values()))
    return {q: {role: outcome[role][q] for role in outcome} for q in quantities}


def headline_split(roles: Collection[str]) -> str:
    """The split by which a run is judged: test, or the last where there is none."""
    return "test" if "test" in roles else list(roles)[-1]


def show_outcome(run_directory: RunDirectory) -> None:
    """Print `format_outcome`."""
    say(format_outcome(run_directory, run_directory.read_results()))


def format_outcome(run_directory: RunDirectory, results: dict[str, Any]) -> str:
    """Each class of the test split, the mAP of every split by protocol, and where it lies."""
    roles = list(results["map"])
    shown = headline_split(roles)
    outcome = {q: of[shown] for q, of in results.items() if q in metrics.QUANTITIES}
    lines = [f"\nOn {shown}:", metrics.format_table(outcome, results["classes"])]
    for role in roles:
        means = results["map"][role]
        parts = [f"{name} {100 * v:.1f}" for name, v in means.items() if v is not None]
        accuracy, loss = results["binary_accuracy"][role], results["loss"][role]
        lines += [
            f"mAP on {role}: {', '.join(parts)}; binary accuracy {accuracy:.2%}, loss {loss:.4f}"
        ]
    lines += [f"All of it is in {run_directory.path}."]
    lines += [f"A page of it: python -m vtl.report {run_directory.path} -o report.html"]
    return "\n".join(lines)
