"""What a careful reader would check before believing a run."""

from typing import Any, NamedTuple

import numpy as np

from vtl.report import rejection
from vtl.report.compare import VOC2007_IMAGES, DataSet
from vtl.report.rejection import PROTOCOL, TOLERANCE, Checks
from vtl.report.runs import Run, Scores


class Finding(NamedTuple):
    """One warning on the page: `subject` is a run or data set, `key` one of the page's words."""

    subject: str
    key: str
    values: dict[str, Any]


def of_run(run: Run) -> list[Finding]:
    """What is suspicious about one run, the gravest first."""
    checks = _check_study(run) if run.task == "relu_study" else ()
    checks = _check_scores(run) if run.scores else checks
    found = (*rejection.checks(run), *checks, *_check_provenance(run))
    return [Finding(run.name, key, values) for key, values in found]


def of_comparison(data_set: DataSet) -> list[Finding]:
    """What makes the runs on one data set hard to compare."""
    runs = data_set.runs
    findings = []
    if len(data_set.ranked) > 1 and data_set.best.headline_split == "test":
        findings.append(Finding(data_set.best.name, "warn_best_on_test", {}))
    settings = {
        "weights": {(run.results.get("weights") or {}).get("sha256") for run in runs} - {None},
        "train_split": {rejection.ids_sha256(run, "train") for run in runs} - {None},
        "jax": {run.results["versions"].get("jax") for run in runs} - {None},
    }
    for setting, values in settings.items():
        if len(values) > 1:
            key = f"warn_different_{setting}"
            findings.append(Finding(data_set.name or "", key, {"count": len(values)}))
    return findings


def _check_scores(run: Run) -> Checks:
    for role, scores in run.scores.items():
        yield from _check_constant(run, role, scores)
        yield from _check_rows(run, role, scores)
        yield from _check_ties(run, role, scores)
    if run.headline_split in ("train", "val"):
        yield f"warn_only_{run.headline_split}", {}
    yield from _check_overlap(run)
    yield from _check_above_train(run)
    yield from _check_protocols(run)
    for role in run.scores:
        names = run.results["without_positives"][role]
        if names:
            yield "warn_without_positives", {"role": role, "classes": ", ".join(names)}
    if run.config.get("num_epochs") == 0 and run.task == "finetune":
        yield "warn_untrained", {}


def _check_constant(run: Run, role: str, scores: Scores) -> Checks:
    spread = np.ptp(scores.ranked_by, axis=0)
    constant = [name for name, width in zip(run.classes, spread, strict=True) if width < TOLERANCE]
    if len(constant) == len(run.classes):
        yield "warn_all_constant", {"role": role}
    elif constant:
        yield "warn_constant", {"role": role, "classes": ", ".join(constant)}
    low, high = scores.scores.min(), scores.scores.max()
    if low < 0 or high > 1:
        yield "warn_no_probabilities", {"role": role, "low": f"{low:g}", "high": f"{high:g}"}


def _check_rows(run: Run, role: str, scores: Scores) -> Checks:
    if scores.ids is None:
        yield "warn_no_ids", {"role": role}
        return
    if len(set(scores.ids)) < len(scores.ids):
        yield "warn_repeated_ids", {"role": role}


def _check_ties(run: Run, role: str, scores: Scores) -> Checks:
    """Look for ties that decide the AP."""
    tied = {}
    for column, name in enumerate(run.classes):
        is_known = scores.is_known[:, column]
        ranked_by = scores.ranked_by[is_known, column]
        count = num_tied(ranked_by, scores.labels[is_known, column] == 1)
        if count and np.ptp(ranked_by) >= TOLERANCE:
            tied[name] = count
    if tied:
        worst = max(tied, key=lambda name: tied[name])
        values = {"count": tied[worst], "images": len(scores.scores), "name": worst}
        yield "warn_ties", {"role": role, "classes": len(tied), **values}


def num_tied(ranked_by: np.ndarray, is_positive: np.ndarray) -> int:
    """The number of photos [N] that rank exactly equal to one with the other label."""
    values, positives = np.unique(ranked_by[is_positive], return_counts=True)
    in_order = np.sort(ranked_by)
    first, end = (np.searchsorted(in_order, values, side) for side in ("left", "right"))
    sizes = end - first
    return int(sizes[positives < sizes].sum())


def _check_overlap(run: Run) -> Checks:
    roles = list(run.scores)
    for index, role in enumerate(roles):
        for other in roles[index + 1 :]:
            ids, others = run.scores[role].ids, run.scores[other].ids
            if ids is None or others is None:
                continue
            shared = len(set(ids) & set(others))
            if shared:
                yield "warn_overlap", {"role": role, "other": other, "count": shared}


def _check_above_train(run: Run) -> Checks:
    interval = run.headline_result("map_interval")[PROTOCOL]
    train = run.results["map"].get("train", {}).get(PROTOCOL)
    if run.headline_split != "train" and interval and train is not None and interval[0] > train:
        yield "warn_above_train", {"role": run.headline_split, "low": interval[0], "train": train}


def _check_protocols(run: Run) -> Checks:
    for name, reason in run.headline_result("not_computable").items():
        yield "warn_not_computable", {"protocol": name, "reason": reason}
    difficult = run.headline_scores.difficult
    is_voc = (run.data_name or "voc").lower().startswith("voc")  # other data has no such flags
    if difficult is not None and not difficult.any() and is_voc:
        yield "warn_none_difficult", {"role": run.headline_split}
    counts = {role: run.results["num_images"].get(role) for role in VOC2007_IMAGES}
    if (run.data_name or "").lower() == "voc2007" and counts != VOC2007_IMAGES:
        yield "warn_not_voc2007", counts


def _check_study(run: Run) -> Checks:
    for network, outcome in run.results["networks"].items():
        for activation, measured in outcome["activations"].items():
            values = {"network": network, "activation": activation}
            if measured["status"] == "diverged":
                yield "warn_diverged", values
            elif measured["at_the_grids_edge"]:
                yield "warn_grids_edge", values | {"rate": f"{measured['learning_rate']:g}"}
    if len(run.config["seeds"]) < 5:
        yield "warn_few_seeds", {"count": len(run.config["seeds"])}


def _check_provenance(run: Run) -> Checks:
    if run.results.get("resumed_from") is not None:
        yield "warn_resumed", {"step": run.results["resumed_from"]}
    commit = run.results.get("commit")
    if not commit:
        yield "warn_no_commit", {}
    elif commit.endswith("-dirty"):
        yield "warn_dirty", {"commit": commit[:7]}
