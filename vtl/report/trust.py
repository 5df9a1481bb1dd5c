"""The warnings that a careful person would raise before believing a run."""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from vtl.evaluation import metrics
from vtl.report.compare import PROTOCOL, VOC2007_IMAGES, DataSet
from vtl.report.runs import Run, Scores

SAME = 1e-6
"""Scores and averages that differ by less are the same."""

SAME_PROBABILITY = 1e-5
"""The sigmoid of a logit is the score, but for rounding in float32."""


class Warning(NamedTuple):
    """A key of the page's words and the values to put in; `run` is the name of the run it is on."""

    run: str
    key: str
    values: dict[str, Any]


def of_run(run: Run) -> list[Warning]:
    """What is suspicious about one run, the gravest first."""
    found = _of_study(run) if run.task == "relu_study" else _of_scores(run)
    return [Warning(run.name, key, values) for key, values in (*found, *_of_making(run))]


def of_comparison(data_set: DataSet) -> list[Warning]:
    """What makes the runs on one data set hard to compare."""
    runs = data_set.runs
    found = []
    if len(runs) > 1 and data_set.best.role == "test":
        found.append(Warning(data_set.best.name, "warn_best_on_test", {}))
    settings = {
        "weights": {(run.results.get("weights") or {}).get("sha256") for run in runs} - {None},
        "train_split": {_ids_sha256(run, "train") for run in runs} - {None},
        "jax": {run.results["versions"].get("jax") for run in runs} - {None},
    }
    for what, values in settings.items():
        if len(values) > 1:
            found.append(
                Warning(data_set.name or "", f"warn_different_{what}", {"count": len(values)})
            )
    return found


Found = Iterator[tuple[str, dict[str, Any]]]


def _of_scores(run: Run) -> Found:
    for role, scores in run.scores.items():
        yield from _constant(run, role, scores)
        yield from _rows(run, role, scores)
        yield from _other_map(run, role, scores)
        yield from _ties(run, role, scores)
    if run.role in ("train", "val"):
        yield f"warn_only_{run.role}", {}
    yield from _overlap(run)
    yield from _above_train(run)
    yield from _protocol(run)
    for role in run.scores:
        names = run.results["without_positives"][role]
        if names:
            yield "warn_without_positives", {"role": role, "classes": ", ".join(names)}
    if run.config.get("num_epochs") == 0 and run.task == "finetune":
        yield "warn_untrained", {}


def _constant(run: Run, role: str, scores: Scores) -> Found:
    spread = np.ptp(scores.ranked_by, axis=0)
    same = [name for name, width in zip(run.classes, spread, strict=True) if width < SAME]
    if len(same) == len(run.classes):
        yield "warn_all_constant", {"role": role}
    elif same:
        yield "warn_constant", {"role": role, "classes": ", ".join(same)}
    low, high = scores.scores.min(), scores.scores.max()
    if low < 0 or high > 1:
        yield "warn_no_probabilities", {"role": role, "low": f"{low:g}", "high": f"{high:g}"}


def _rows(run: Run, role: str, scores: Scores) -> Found:
    if scores.ids is None:
        yield "warn_no_ids", {"role": role}
        return
    if len(set(scores.ids)) < len(scores.ids):
        yield "warn_repeated_ids", {"role": role}
    expected = _ids_sha256(run, role)
    found = hashlib.sha256("\n".join(map(str, scores.ids)).encode()).hexdigest()
    if expected and found != expected:
        yield "warn_other_ids", {"role": role}
    if len(scores.scores) != run.results["num_images"][role]:
        counts = {"rows": len(scores.scores), "images": run.results["num_images"][role]}
        yield "warn_other_count", {"role": role, **counts}


def _ids_sha256(run: Run, role: str) -> str | None:
    return ((run.results.get("data") or {}).get("ids_sha256") or {}).get(role)


def _other_map(run: Run, role: str, scores: Scores) -> Found:
    """results.json against the scores beside it."""
    computed = metrics.mean_average_precision(
        scores.ranked_by, scores.labels, scores.difficult, run.classes, PROTOCOL
    )
    stated = run.results["map"][role][PROTOCOL]
    if (computed is None) != (stated is None) or not abs((computed or 0) - (stated or 0)) <= SAME:
        yield "warn_other_map", {"role": role, "stated": stated, "computed": computed}


def _ties(run: Run, role: str, scores: Scores) -> Found:
    """Photos with and without a class that nothing ranks, and logits that are not the scores'."""
    tied = {
        name: count
        for name, ranked_by, labels in zip(
            run.classes, scores.ranked_by.T, scores.labels.T, strict=True
        )
        if (count := num_tied(ranked_by, labels == 1)) and np.ptp(ranked_by) >= SAME
    }
    if tied:
        worst = max(tied, key=lambda name: tied[name])
        values = {"count": tied[worst], "images": len(scores.scores), "name": worst}
        yield "warn_ties", {"role": role, "classes": len(tied), **values}
    if scores.logits is not None:
        given = 1 / (1 + np.exp(-np.clip(scores.logits.astype(np.float64), -100, 100)))
        if np.abs(given - scores.scores).max() > SAME_PROBABILITY:
            yield "warn_other_logits", {"role": role}


def num_tied(ranked_by: np.ndarray, is_positive: np.ndarray) -> int:
    """Of photos [N] those that are ranked equal with one whose label is the other."""
    _, place, sizes = np.unique(ranked_by, return_inverse=True, return_counts=True)
    positives = np.bincount(place, weights=is_positive)
    return int(sizes[(positives > 0) & (positives < sizes)].sum())


def _overlap(run: Run) -> Found:
    roles = list(run.scores)
    for index, role in enumerate(roles):
        for other in roles[index + 1 :]:
            ids, others = run.scores[role].ids, run.scores[other].ids
            if ids is None or others is None:
                continue
            shared = len(set(ids) & set(others))
            if shared:
                yield "warn_overlap", {"role": role, "other": other, "count": shared}


def _above_train(run: Run) -> Found:
    interval = run.of_shown("map_interval")[PROTOCOL]
    train = run.results["map"].get("train", {}).get(PROTOCOL)
    if run.role != "train" and interval and train is not None and interval[0] > train:
        yield "warn_above_train", {"role": run.role, "low": interval[0], "train": train}


def _protocol(run: Run) -> Found:
    for name, reason in run.of_shown("not_computable").items():
        yield "warn_not_computable", {"protocol": name, "reason": reason}
    difficult = run.shown.difficult
    if difficult is not None and not difficult.any() and run.data_name != "demo":
        yield "warn_none_difficult", {"role": run.role}
    counts = {role: run.results["num_images"].get(role) for role in VOC2007_IMAGES}
    if run.data_name == "voc2007" and counts != VOC2007_IMAGES:
        yield "warn_not_voc2007", counts


def _of_study(run: Run) -> Found:
    for network, of in run.results["networks"].items():
        for activation, found in of["activations"].items():
            values = {"network": network, "activation": activation}
            if found["status"] == "diverged":
                yield "warn_diverged", values
            elif found["at_the_grids_edge"]:
                yield "warn_grids_edge", values | {"rate": f"{found['learning_rate']:g}"}
    if len(run.config["seeds"]) < 5:
        yield "warn_few_seeds", {"count": len(run.config["seeds"])}


def _of_making(run: Run) -> Found:
    data = run.config.get("data") or run.config  # a probe's splits stand by themselves
    splits = [data.get(f"{role}_split") for role in ("train", "val")]
    if data.get("test_split") and data["test_split"] in splits:
        yield "warn_selected_on_test", {"split": data["test_split"]}
    if run.results.get("resumed_from") is not None:
        yield "warn_resumed", {"step": run.results["resumed_from"]}
    if run.results.get("status") != "finished":
        yield "warn_unfinished", {"status": run.results.get("status")}
    commit = run.results.get("commit")
    if not commit:
        yield "warn_no_commit", {}
    elif commit.endswith("-dirty"):
        yield "warn_dirty", {"commit": commit[:7]}
