"""The outcome of a run: the scores and metrics of every split, written down and printed."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from vtl import decisions as answered
from vtl.console import say
from vtl.decisions import HALF, Decisions
from vtl.evaluation import answers, calibration, metrics, one_label
from vtl.run_directory import RunDirectory, SplitsNow
from vtl.schema import of_file
from vtl.untrusted import escaped

MAP_PROTOCOL = "lab"
"""The protocol of the mAP by which anything is chosen."""


class Labelled(Protocol):
    """What a split needs to be scored; ids, label_mask and difficult may be None."""

    @property
    def ids(self) -> Sequence[str] | None:
        """[N]."""

    @property
    def labels(self) -> Any:
        """[N, C] in {0, 1}: an array, or what becomes one."""

    @property
    def label_mask(self) -> np.ndarray | None:
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
    splits: SplitsNow | None = None,
) -> bool:
    """Whether the run is finished already; says so, and shows its outcome by `format_results`.

    `splits` as in `RunDirectory.compare`.

    Raises:
        UserError: it was made of something else than there is now, or its files were changed.
    """
    if not run_directory.is_finished:
        return False
    run_directory.check_finished(content, splits)
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
    *,
    one_label_each: bool = False,
    decisions: Decisions | None = None,
) -> dict[str, Any]:
    """Write the logits [N, C] and scores of every split, by role; return its metrics.

    The metrics are laid out as in results.json. `seed` is for the bootstrap of the intervals. With
    `one_label_each` scores are the softmax of logits, which must be `one_label.normalised`, and
    the key `one_label` has what `one_label.evaluate` says. With `decisions` calibrated
    probabilities are written, too. The key `answers` has how good the answers on the headline
    split are, and errors_ROLE.csv is a table of the wrong ones.
    """
    outcome, headline, found_answers = {}, headline_split(splits), {}
    for role, split in splits.items():
        labels = np.asarray(split.labels)
        scores = scores_of(logits[role], one_label_each=one_label_each)
        probabilities = None
        if decisions:
            probabilities = answered.probabilities(
                logits[role], decisions, one_label_each=one_label_each
            )
        run_directory.write_scores(
            role,
            split.ids,
            classes,
            scores,
            logits[role],
            labels,
            split.difficult,
            split.label_mask,
            probabilities,
        )
        outcome[role] = metrics.evaluate_scores(
            scores,
            labels,
            split.difficult,
            classes,
            label_mask=split.label_mask,
            ranked_by=logits[role],
            seed=seed,
        )
        if one_label_each:
            found = one_label.evaluate(logits[role], labels, seed=seed)
            outcome[role] |= {"loss": found.pop("loss"), "one_label": found}
        if role == headline:
            found_answers[role], errors = _answers(
                split,
                classes,
                scores,
                probabilities,
                decisions,
                seed,
                one_label_each,
                is_unseen=role == "test",
            )
            run_directory.write_table(f"errors_{role}.csv", errors)
    return split_last(outcome) | {"answers": found_answers}


def _answers(
    split: Labelled,
    classes: Sequence[str],
    scores: np.ndarray,
    probabilities: np.ndarray | None,
    decisions: Decisions | None,
    seed: int,
    one_label_each: bool,
    is_unseen: bool,
) -> tuple[dict[str, Any], str]:
    """How good the answers on a split are, and the wrong ones as CSV.

    What calibration and thresholds bring is left out of a split that they were chosen on.
    """
    labels = np.asarray(split.labels)
    counted = counted_labels(split)
    by_half = answered.answers(scores, None, one_label_each=one_label_each)
    if probabilities is None or decisions is None:
        given, shown = by_half, scores
        thresholds = (0.0 if one_label_each else HALF,) * len(classes)
    else:
        given = answered.answers(probabilities, decisions, one_label_each=one_label_each)
        shown, thresholds = probabilities, decisions.thresholds
    has_baseline = is_unseen and not one_label_each
    found = answers.evaluate(
        given, labels, counted, classes, baseline=by_half if has_baseline else None, seed=seed
    )
    found["is_unseen"] = is_unseen
    by_stage = {"before_calibration": scores}
    if is_unseen and probabilities is not None:
        by_stage["after_calibration"] = probabilities
    found |= {
        stage: {
            "brier": calibration.brier(p, labels, counted),
            "reliability": calibration.reliability(p, labels, counted),
        }
        for stage, p in by_stage.items()
    }
    ids = split.ids or [f"row {row}" for row in range(len(labels))]
    return found, answers.errors_csv(ids, classes, shown, thresholds, given, labels, counted)


def counted_labels(split: Labelled) -> np.ndarray:
    """Which labels [N, C] an answer can be right or wrong about: those known and not difficult."""
    known = split.label_mask
    if known is None:
        known = np.ones(np.shape(split.labels), np.uint8)
    return known if split.difficult is None else known * (1 - split.difficult)


def scores_of(logits: np.ndarray, *, one_label_each: bool = False) -> np.ndarray:
    """Probabilities, float32: the sigmoid of each logit, or the softmax of `normalised` ones."""
    return np.exp(logits) if one_label_each else np.asarray(jax.nn.sigmoid(logits))


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
    """Print `format_outcome`."""
    say(format_outcome(run_directory, run_directory.read_results()))


def format_outcome(
    run_directory: RunDirectory, results: dict[str, Any], further: Sequence[str] = ()
) -> str:
    """Each class of the test split, the mAP of every split by protocol, and where it lies.

    `further` are lines that come before the last.
    """
    roles = list(results["map"])
    headline = headline_split(roles)
    outcome = {
        quantity: by_split[headline]
        for quantity, by_split in results.items()
        if quantity in metrics.QUANTITIES
    }
    lines = [f"\nOn {headline}:", metrics.format_table(outcome, results["classes"])]
    for role in roles:
        means = results["map"][role]
        parts = [f"{name} {100 * mean:.1f}" for name, mean in means.items() if mean is not None]
        accuracy, loss = results["binary_accuracy"][role], results["loss"][role]
        shown = ", ".join(parts) or "none, because no class has a positive"
        of_labels = "no label is known"
        if accuracy is not None:
            of_labels = f"binary accuracy {accuracy:.2%}, loss {loss:.4f}"
        lines += [f"mAP on {role}: {shown}; {of_labels}"]
    if "one_label" in results:
        lines += one_label.format_lines(
            results["one_label"][headline], headline, results["classes"]
        )
    if headline in results.get("answers", {}):
        lines += ["", *answers.format_lines(results, headline, results["classes"]), ""]
    lines += [*_what_training_brought(results), *further]
    return "\n".join([*lines, *where_it_is(run_directory)])


def _what_training_brought(results: dict[str, Any]) -> list[str]:
    """The mAP before training beside that after it; [] of a run that has none."""
    lines, trial, start = [], results.get("held_out"), results.get("start")
    if trial and trial["maps"]:
        before, *after = (f"{100 * mean_ap:.1f}" for mean_ap in trial["maps"])
        held_out = f"{trial['num_images']} photos held out of train"
        passes = f"then {', '.join(after)} after each pass" if after else "then training diverged"
        if mixed := trial.get("mixed_maps", [])[1:]:
            passes += f", at best mixed with the start {', '.join(f'{100 * x:.1f}' for x in mixed)}"
        lines.append(f"mAP on {held_out} ({MAP_PROTOCOL}): {before} before training, {passes}")
        losses = trial.get("losses", [])
        if higher := sum(loss > losses[0] for loss in losses):
            lines.append(
                f"After {higher} of {len(after)} passes their loss was higher than before training "
                f"({losses[0]:.4f}), so that these do not count."
            )
    for role, before in (start or {}).items():
        after = results["map"].get(role, {}).get(MAP_PROTOCOL)
        if after is not None:
            trained = results.get("trained", {}).get(role)
            mixed = "" if trained is None else f", {100 * after:.1f} mixed"
            lines.append(
                f"mAP on {role} ({MAP_PROTOCOL}): {100 * before:.1f} before training, "
                f"{100 * (after if trained is None else trained):.1f} after it{mixed}"
            )
    if start is not None and results.get("chosen_step") == 0:
        lines.append("Training was no better than its start, so model.safetensors holds the start.")
    elif (mix := results.get("chosen_mix", 1)) < 1:
        lines.append(f"model.safetensors is {mix:g} of the trained weights, the rest the start's.")
    return lines


def where_it_is(run_directory: RunDirectory) -> list[str]:
    """The last lines of a run: where its files are, and what to do next."""
    return [
        f"Everything is in {run_directory.path}.",
        f"To see it as a page: vtl report {run_directory.path} -o report.html",
    ]
