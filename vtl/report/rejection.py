"""What takes a run out of every ranking: its files contradict one another, or it saw the test.

No run that is rejected here is called the best, compared with the best, or given a rank.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vtl import identity
from vtl.evaluation import metrics
from vtl.evaluation.resampling import blocks
from vtl.report.runs import Run, Scores

PROTOCOL = "lab"
"""The protocol that runs are compared by: scikit-learn's AP, as the lab asks."""

TOLERANCE = 1e-6
"""Scores and averages that differ by less count as equal."""

PROBABILITY_TOLERANCE = 1e-5
"""How far a score may be from the sigmoid of its logit, which float32 rounds."""

Checks = Iterator[tuple[str, dict[str, Any]]]
"""What checks yield: a key of the page's words for each fault, and the values to fill in."""


def is_rejected(run: Run) -> bool:
    """Whether any of the checks speaks against the run."""
    return bool(checks(run))


@functools.cache
def checks(run: Run) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Each reason to reject the run."""
    return tuple(_checks(run))


def _checks(run: Run) -> Checks:
    for role, scores in run.scores.items():
        yield from _check_map(run, role)
        yield from _check_rows(run, role, scores)
        yield from _check_content(run, role, scores)
        yield from _check_logits(run, role, scores)
    for name, sha256 in run.sha256.items():
        if run.results.get("files", {}).get(name, sha256) != sha256:
            yield "warn_other_file", {"file": name}
    if run.results.get("status") != "finished":
        yield "warn_unfinished", {"status": run.results.get("status")}
    data = run.config.get("data") or run.config  # a probe has no `data` section
    splits = [data.get(f"{role}_split") for role in ("train", "val")]
    if data.get("test_split") and data["test_split"] in splits:
        yield "warn_selected_on_test", {"split": data["test_split"]}


def map_of_scores(run: Run, role: str) -> float | None:
    """The mAP by PROTOCOL of the scores that a run kept of a split; None if it has none."""
    return _maps_of_scores(run, role, [PROTOCOL])[PROTOCOL]


def _maps_of_scores(run: Run, role: str, protocols: Sequence[str]) -> dict[str, float | None]:
    scores = run.scores[role]
    return metrics.mean_average_precisions(
        scores.ranked_by,
        scores.labels,
        scores.difficult,
        run.classes,
        protocols,
        scores.label_mask,
    )


def _check_map(run: Run, role: str) -> Checks:
    """Compare the mAP in results.json with that of the scores beside it."""
    has_flags = run.scores[role].difficult is not None
    names = [
        name
        for name, protocol in metrics.PROTOCOLS.items()
        if has_flags or not protocol.leaves_out_difficult
    ]
    maps = dict.fromkeys(metrics.PROTOCOLS) | _maps_of_scores(run, role, names)
    for protocol, computed in maps.items():
        stated = run.results["map"][role][protocol]
        if stated is None and computed is None:
            continue
        if stated is None or computed is None or abs(computed - stated) > TOLERANCE:
            values = {"protocol": protocol, "stated": stated, "computed": computed}
            yield "warn_other_map", {"role": role, **values}
            return


def _check_rows(run: Run, role: str, scores: Scores) -> Checks:
    if len(scores.scores) != run.results["num_images"][role]:
        counts = {"rows": len(scores.scores), "images": run.results["num_images"][role]}
        yield "warn_other_count", {"role": role, **counts}
    expected = ids_sha256(run, role)
    if scores.ids is not None and expected and identity.text_sha256(scores.ids) != expected:
        yield "warn_other_ids", {"role": role}


def ids_sha256(run: Run, role: str) -> str | None:
    """What results.json says of a split's ids."""
    return ((run.results.get("data") or {}).get("ids_sha256") or {}).get(role)


def _check_content(run: Run, role: str, scores: Scores) -> Checks:
    """Compare labels and difficult flags with those that the run was begun with."""
    content = (run.made_of or {}).get("content", {}).get("data")
    of_split = content.get(role) if isinstance(content, dict) else None
    if not isinstance(of_split, dict) or scores.ids is None:
        return
    if of_split.get("ids") != identity.text_sha256(scores.ids):
        return  # photos that were broken or dropped have no scores
    labels = np.where(scores.is_known, scores.labels, identity.UNKNOWN)
    recorded = {"labels": labels, "difficult": scores.difficult}
    for what, array in recorded.items():
        if array is None or what not in of_split:
            continue
        if identity.array_sha256(array.astype(np.uint8)) != of_split[what]:
            yield f"warn_other_{what}", {"role": role}


def _check_logits(run: Run, role: str, scores: Scores) -> Checks:
    if scores.logits is None:
        return
    for rows in blocks(*scores.logits.shape):
        logits = scores.logits[rows].astype(np.float64)
        if "one_label" in run.results:
            expected = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        else:
            expected = 1 / (1 + np.exp(-np.clip(logits, -100, 100)))
        if np.abs(expected - scores.scores[rows]).max() > PROBABILITY_TOLERANCE:
            yield "warn_other_logits", {"role": role}
            return
