"""Average precision under three protocols, with bootstrap intervals over images.

`lab` is scikit-learn's average_precision_score: images with equal scores form one step of the
curve, AP = sum over steps of (gain in recall) * precision, and a difficult image is a negative.

`voc2007` and `voc2010` are the PASCAL VOC devkits (VOCevalcls.m; gt is 1, 0 difficult, -1):

    [so,si]=sort(-out);  tp=cumsum(gt(si)>0);  fp=cumsum(gt(si)<0);
    rec=tp/sum(gt>0);    prec=tp./(fp+tp);

Difficult images count neither way, and equal scores stay in file order (the sort is stable).

    2007:            ap=0;  for t=0:0.1:1, p=max(prec(rec>=t)), ap=ap+p/11  (p=0 where none)
    2010 (VOCap.m):  mrec=[0;rec;1], mpre=[0;prec;0], mpre(i)=max(mpre(i),mpre(i+1)) from the end,
                     ap = sum of (mrec(i)-mrec(i-1))*mpre(i) where mrec changes

The thresholds are t = i * 0.1 in doubles, as in a for loop of MATLAB or Octave and in NumPy's
arange; a MATLAB vector 0:0.1:1 is rounded differently. t = 0.3, 0.6 and 0.7 are then one bit above
the fraction, so a recall of exactly 3/10 misses t = 0.3.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

from vtl.errors import UserError
from vtl.evaluation.resampling import (
    blocks,
    columns,
    compact,
    draw_resamples,
    interval_of,
    mean_over_classes,
    once,
)
from vtl.untrusted import printable

RECALL_THRESHOLDS = 0.1 * np.arange(11)
NO_DIFFICULT_FLAGS = "there are no difficult flags"
QUANTITIES = (
    "map",
    "map_interval",
    "ap",
    "ap_interval",
    "positives",
    "without_positives",
    "not_computable",
    "num_images",
    "num_unknown",
    "binary_accuracy",
    "loss",
)
"""The keys of what `evaluate_scores` returns."""


class Protocol(NamedTuple):
    """How a ranking becomes one number; `area` maps recall and precision [K, R] to AP [R]."""

    description: str
    leaves_out_difficult: bool
    groups_ties: bool
    area: Callable[[np.ndarray, np.ndarray], np.ndarray]


class _Ranking(NamedTuple):
    """The steps of one class's precision/recall curve: K places where recall can grow.

    A resample repeats image n counts[n] times. The copies of a positive are consecutive hits, which
    raise precision and recall together, so the last copy stands for all of them.
    """

    images: np.ndarray  # [M] from the best score down to the last positive
    num_images: np.ndarray  # [K] images up to the end of each step
    positives: np.ndarray  # [P] the positive images, best first
    num_positives: np.ndarray  # [K] positives up to the end of each step


def _step_area(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    return np.sum(np.diff(recall, axis=0, prepend=0) * precision, axis=0)


def _interpolated_area(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    return _step_area(recall, np.maximum.accumulate(precision[::-1], axis=0)[::-1])


def _eleven_points(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    best = [np.max(precision * (recall >= t), axis=0) for t in RECALL_THRESHOLDS]
    return np.mean(best, axis=0)


PROTOCOLS = {
    "lab": Protocol(
        "scikit-learn average_precision_score, difficult images are negatives",
        leaves_out_difficult=False,
        groups_ties=True,
        area=_step_area,
    ),
    "voc2007": Protocol(
        "VOC2007 devkit, 11-point interpolated, difficult images left out",
        leaves_out_difficult=True,
        groups_ties=False,
        area=_eleven_points,
    ),
    "voc2010": Protocol(
        "VOC2010 devkit, area under the interpolated curve, difficult images left out",
        leaves_out_difficult=True,
        groups_ties=False,
        area=_interpolated_area,
    ),
}


def average_precision(
    scores: np.ndarray, labels: np.ndarray, difficult: np.ndarray | None, protocol: str
) -> float | None:
    """AP of one class from scores [N], labels and difficult [N] in {0, 1}; None without a positive.

    Raises:
        UserError: the arrays are unusable, or the protocol needs difficult flags and has none.
    """
    column_of_flags = None if difficult is None else np.asarray(difficult)[:, None]
    columns = np.asarray(scores)[:, None], np.asarray(labels)[:, None]
    arrays = _checked(*columns, column_of_flags, None)
    return _or_none(_point_estimates(arrays, [protocol])[protocol][0])


def evaluate_scores(
    scores: np.ndarray,
    labels: np.ndarray,
    difficult: np.ndarray | None,
    classes: Sequence[str],
    *,
    label_mask: np.ndarray | None = None,
    ranked_by: np.ndarray | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """AP, mAP and their 95 % intervals under every protocol, ready for json.dumps.

    scores [N, C] are probabilities; labels and difficult [N, C] are 0 or 1. An image counts for a
    class only where label_mask [N, C] is 1; None is 1 everywhere. `ranked_by` [N, C]
    ranks the images. Give the logits, because probabilities near 0 and 1 tie in float32; the
    default is the scores. Intervals are percentiles of a bootstrap over images. A class without a
    positive has AP None and is left out of the mean. If a class has no positive in a resample, the
    resample is left out of the class's interval, and the class out of the resample's mean. What
    can't be computed is None. The loss is the mean binary cross-entropy in nats, with scores
    clipped to 1e-7 from 0 and 1, as in Keras.

    Raises:
        UserError: shapes, labels or scores are unusable.
    """
    ranked_by = scores if ranked_by is None else ranked_by
    scores, labels, difficult, known = _checked(
        scores, labels, difficult, label_mask, classes=classes
    )
    ranked_by = _checked_scores(ranked_by, labels.shape, classes)
    positives = labels.sum(axis=0).astype(int).tolist()
    result: dict[str, Any] = {
        "map": dict.fromkeys(PROTOCOLS),
        "map_interval": dict.fromkeys(PROTOCOLS),
        "ap": {name: dict.fromkeys(classes) for name in PROTOCOLS},
        "ap_interval": {name: dict.fromkeys(classes) for name in PROTOCOLS},
        "positives": dict(zip(classes, positives, strict=True)),
        "without_positives": [c for c, n in zip(classes, positives, strict=True) if n == 0],
        "not_computable": {},
        "num_images": len(scores),
        "num_unknown": int(known.size - known.sum()),
        "binary_accuracy": _binary_accuracy(scores, labels, known),
        "loss": _mean_cross_entropy(scores, labels, known),
    }
    computable = []
    for name, protocol in PROTOCOLS.items():
        if protocol.leaves_out_difficult and difficult is None:
            result["not_computable"][name] = NO_DIFFICULT_FLAGS
        else:
            computable.append(name)
    arrays = _Arrays(ranked_by, labels, difficult, known)
    for name, (aps, samples) in _bootstrap(arrays, computable, num_resamples, seed).items():
        result["map"][name] = _mean(aps)
        result["map_interval"][name] = interval_of(mean_over_classes(samples))
        result["ap"][name] = dict(zip(classes, map(_or_none, aps), strict=True))
        result["ap_interval"][name] = dict(zip(classes, map(interval_of, samples), strict=True))
    return result


def mean_average_precision(
    ranked_by: np.ndarray,
    labels: np.ndarray,
    difficult: np.ndarray | None,
    classes: Sequence[str],
    protocol: str,
    label_mask: np.ndarray | None = None,
) -> float | None:
    """The mAP of logits or scores [N, C] under one protocol, None if no class has a positive.

    Raises:
        UserError: as in `evaluate_scores`.
    """
    arrays = (ranked_by, labels, difficult)
    return mean_average_precisions(*arrays, classes, [protocol], label_mask)[protocol]


def mean_average_precisions(
    ranked_by: np.ndarray,
    labels: np.ndarray,
    difficult: np.ndarray | None,
    classes: Sequence[str],
    protocols: Sequence[str],
    label_mask: np.ndarray | None = None,
) -> dict[str, float | None]:
    """As `mean_average_precision`, under several protocols."""
    arrays = _checked(ranked_by, labels, difficult, label_mask, classes=classes)
    return {name: _mean(aps) for name, aps in _point_estimates(arrays, protocols).items()}


def paired_difference(
    scores_a: np.ndarray,
    scores_b: np.ndarray,
    labels: np.ndarray,
    difficult: np.ndarray | None,
    protocol: str,
    *,
    label_mask: np.ndarray | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The mAP of a minus that of b with its 95 % interval: (difference, low, high), as fractions.

    Both are scored on the same resamples of images, so the difficulty of the test set cancels out.
    Arrays are [N, C] as in `evaluate_scores`. Scores may be logits, which tie less often.

    Raises:
        UserError: arrays are unusable, no class has a positive, or num_resamples is below 1.
    """
    if num_resamples < 1:
        raise UserError(f"num_resamples must be at least 1, got {num_resamples}")
    maps, samples = [], []
    for scores in (scores_a, scores_b):
        arrays = _checked(scores, labels, difficult, label_mask)
        aps, of_resamples = _bootstrap(arrays, [protocol], num_resamples, seed)[protocol]
        maps.append(_mean(aps))
        samples.append(mean_over_classes(of_resamples))
    interval = interval_of(samples[0] - samples[1])
    if maps[0] is None or maps[1] is None or interval is None:
        raise UserError("no class has a positive image: there is no mAP to compare")
    return maps[0] - maps[1], interval[0], interval[1]


def bootstrapped_map(
    scores: np.ndarray,
    labels: np.ndarray,
    protocol: str,
    *,
    label_mask: np.ndarray | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, np.ndarray]:
    """The mAP, and that of each resample of images, [R], without difficult flags.

    Arrays are [N, C] as in `evaluate_scores`. A seed draws the same images for all scores, so that
    resamples of one are paired with those of another.

    Raises:
        UserError: arrays are unusable, or no class has a positive.
    """
    arrays = _checked(scores, labels, None, label_mask)
    aps, samples = _bootstrap(arrays, [protocol], num_resamples, seed)[protocol]
    mean_ap = _mean(aps)
    if mean_ap is None:
        raise UserError("no class has a positive image: there is no mAP")
    return mean_ap, mean_over_classes(samples)


def resampled_map(
    scores: np.ndarray, labels: np.ndarray, protocol: str, counts: np.ndarray
) -> np.ndarray:
    """The mAP in each resample, [R], without difficult flags.

    scores and labels [N, C] as in `evaluate_scores`; image n is counts[n, r] times in resample r,
    counts [N, R]. A class without a positive is left out of the mean; NaN where there is no other.

    Raises:
        UserError: arrays are unusable.
    """
    arrays = _checked(scores, labels, None, None)
    return mean_over_classes(_average_precisions(arrays, [protocol], [counts])[protocol])


def precision_recall(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall [T + 1] of one class at each of T different scores, the lowest first.

    scores [N] and labels [N] in {0, 1}. The last is precision 1 and recall 0, as scikit-learn's
    precision_recall_curve has it, which takes as long to import as JAX. Without a positive, recall
    is 1 but for the last.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_its_score = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(labels[order], dtype=np.float64)[last_of_its_score]
    precision = hits / (last_of_its_score + 1)
    recall = hits / hits[-1] if hits[-1] else np.ones_like(hits)
    return np.append(precision[::-1], 1.0), np.append(recall[::-1], 0.0)


def format_table(result: dict[str, Any], classes: Sequence[str]) -> str:
    """The result of `evaluate_scores` as an aligned text table, in percent."""
    names = [name for name in PROTOCOLS if name not in result["not_computable"]]
    rows = [["class", "positives", *names]]
    for c in classes:
        cells = [_percent(result["ap"][name][c], result["ap_interval"][name][c]) for name in names]
        rows.append([printable(c, 40), str(result["positives"][c]), *cells])
    means = [_percent(result["map"][name], result["map_interval"][name]) for name in names]
    rows.append(["mAP", "", *means])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"AP in percent [95 % interval], {result['num_images']} images"]
    for first, second, *cells in rows:
        padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths[2:], strict=True)]
        line = [f"{first:<{widths[0]}}", f"{second:>{widths[1]}}", *padded]
        lines.append("  ".join(line).rstrip())
    if result["without_positives"]:
        without = ", ".join(printable(c, 40) for c in result["without_positives"])
        lines.append(f"no positives, left out of mAP: {without}")
    lines += [f"{name}: {PROTOCOLS[name].description}" for name in names]
    lines += [f"{name}: not computable, {why}" for name, why in result["not_computable"].items()]
    if result.get("num_unknown"):
        lines.append(f"labels that are not known, left out: {result['num_unknown']:,}")
    if result["binary_accuracy"] is not None:
        lines.append(f"binary accuracy at 0.5: {100 * result['binary_accuracy']:.1f}")
    return "\n".join(lines)


def _binary_accuracy(scores: np.ndarray, labels: np.ndarray, known: np.ndarray) -> float | None:
    """None if nothing is known."""
    num_known = np.count_nonzero(known)
    return np.count_nonzero(((scores > 0.5) == labels) & known) / num_known if num_known else None


def _mean_cross_entropy(scores: np.ndarray, labels: np.ndarray, known: np.ndarray) -> float | None:
    """None if nothing is known."""
    num_known, total = np.count_nonzero(known), 0.0
    for rows in blocks(*scores.shape):
        p = scores[rows].astype(np.float64)
        probability_of_label = np.where(labels[rows] == 1, p, 1 - p)[known[rows]]
        total += np.sum(-np.log(np.clip(probability_of_label, 1e-7, 1 - 1e-7)))
    return float(total / num_known) if num_known else None


def _percent(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "-"
    if interval is None:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


class _Arrays(NamedTuple):
    """What ranks the images, and their labels, all [N, C]; labels are 0 where not known."""

    scores: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray | None
    known: np.ndarray


def _checked(
    scores: Any,
    labels: Any,
    difficult: Any,
    label_mask: Any,
    *,
    classes: Sequence[str] | None = None,
) -> _Arrays:
    """The arrays; known is bool."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    difficult = None if difficult is None else np.asarray(difficult)
    if classes is None:
        classes = [f"column {c}" for c in range(scores.shape[-1])]
    known = np.ones(labels.shape, bool) if label_mask is None else np.asarray(label_mask)
    flags = {"labels": labels, "label_mask": known}
    flags |= {} if difficult is None else {"difficult": difficult}
    for name, array in flags.items():
        if scores.ndim != 2 or array.shape != scores.shape or scores.shape[1] != len(classes):
            raise UserError(
                f"scores {scores.shape} and {name} {array.shape} must both have the shape "
                f"[images, {len(classes)} classes]"
            )
        is_flag = (array == 0) | (array == 1)
        if not is_flag.all():
            raise UserError(f"{name} must be 0 or 1, got {array[~is_flag][0]}")
    known = known.astype(bool, copy=False)
    labels = labels if known.all() else labels * known
    return _Arrays(_checked_scores(scores, labels.shape, classes), labels, difficult, known)


def _checked_scores(scores: Any, shape: tuple[int, ...], classes: Sequence[str]) -> np.ndarray:
    """Scores of this shape, finite floats."""
    scores = np.asarray(scores)
    if scores.shape != shape:
        raise UserError(
            f"scores {scores.shape} and labels {shape} must both have the shape "
            f"[images, {len(classes)} classes]"
        )
    if scores.size == 0:
        raise UserError("there are no scores: give at least one image and one class")
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float64)
    num_bad = len(scores) - np.isfinite(scores).sum(axis=0)
    if num_bad.any():
        by_class = ", ".join(f"{c}: {n}" for c, n in zip(classes, num_bad, strict=True) if n)
        raise UserError(
            f"{num_bad.sum()} of {scores.size} scores are NaN or infinite ({printable(by_class)})"
        )
    return scores


def _average_precisions(
    arrays: _Arrays, names: Sequence[str], counts: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """AP [C, R] under each protocol, NaN if no positive was drawn.

    Image n is repeated counts[i][n, r] times, counts[i] [N, R_i], and R is the sum of all R_i.
    """
    _check_computable(arrays, names)
    counts = [compact(of) for of in counts]
    num_classes = arrays.scores.shape[1]
    found = {name: np.empty((num_classes, sum(of.shape[1] for of in counts))) for name in names}
    kinds = {_ranks_by(name) for name in names}
    for place, of_class in enumerate(_by_class(arrays)):
        scores, is_positive = of_class.scores, of_class.labels == 1
        order = np.argsort(-scores, kind="stable")
        for leaves_out_difficult, groups_ties in kinds:
            kept = _kept(of_class, leaves_out_difficult)
            ranking = _ranking(scores, order[kept[order]], is_positive, groups_ties)
            same = [
                name for name in names if _ranks_by(name) == (leaves_out_difficult, groups_ties)
            ]
            pieces = [_weighted_aps(ranking, of, same) for of in counts]
            for name in same:
                found[name][place] = np.concatenate([piece[name] for piece in pieces])
    return found


def _check_computable(arrays: _Arrays, names: Sequence[str]) -> None:
    for name in names:
        if name not in PROTOCOLS:
            raise UserError(f"unknown protocol {name!r}: choose one of {', '.join(PROTOCOLS)}")
        if PROTOCOLS[name].leaves_out_difficult and arrays.difficult is None:
            raise UserError(f"{name} is not computable: {NO_DIFFICULT_FLAGS}")


def _by_class(arrays: _Arrays) -> Iterator[_Arrays]:
    """Each class's arrays [N]."""
    flags = () if arrays.difficult is None else (arrays.difficult,)
    for scores, labels, known, *difficult in columns(
        arrays.scores, arrays.labels, arrays.known, *flags
    ):
        yield _Arrays(scores, labels, difficult[0] if difficult else None, known)


def _kept(of_class: _Arrays, leaves_out_difficult: bool) -> np.ndarray:
    """Which images [N] count for a class."""
    if not leaves_out_difficult or of_class.difficult is None:
        return of_class.known
    return of_class.known & ((of_class.labels == 1) | (of_class.difficult == 0))


def _ranks_by(name: str) -> tuple[bool, bool]:
    """What a protocol's ranking depends on; those that have it in common share one."""
    return PROTOCOLS[name].leaves_out_difficult, PROTOCOLS[name].groups_ties


def _ranking(
    scores: np.ndarray, images: np.ndarray, is_positive: np.ndarray, groups_ties: bool
) -> _Ranking | None:
    """The ranking of `images`, which are sorted; None without a positive."""
    is_hit = is_positive[images]
    if not is_hit.any():
        return None
    num_hits = np.cumsum(is_hit)
    if groups_ties:
        ends = np.flatnonzero(np.append(np.diff(scores[images]) != 0, True))
        ends = ends[np.diff(num_hits[ends], prepend=0) > 0]
    else:
        ends = np.flatnonzero(is_hit)
    return _Ranking(images[: ends[-1] + 1], ends + 1, images[is_hit], num_hits[ends])


def _weighted_aps(
    ranking: _Ranking | None, counts: np.ndarray, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """AP [R] under each of some protocols, with image n repeated counts[n, r] times."""
    found = {name: np.full(counts.shape[1], np.nan) for name in names}
    if ranking is None:
        return found
    hits = _sums(counts, ranking.positives, ranking.num_positives)
    images = _sums(counts, ranking.images, ranking.num_images)
    for of in blocks(counts.shape[1], len(hits)):
        num_hits = np.cumsum(hits[:, of], axis=0, dtype=np.float64)
        num_images = np.cumsum(images[:, of], axis=0, dtype=np.float64)
        recall = num_hits / np.maximum(num_hits[-1], 1)
        precision = num_hits / np.maximum(num_images, 1)
        for name in names:
            ap = PROTOCOLS[name].area(recall, precision)
            found[name][of] = np.where(num_hits[-1] > 0, ap, np.nan)
    return found


def _sums(counts: np.ndarray, rows: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sums [K, R] of counts [N, R] over `rows` from one of `ends` [K] to the next.

    As a product with a sparse matrix of columns, which reads the counts in their order: they are
    larger than a processor's caches, and the sums mostly are not.
    """
    if counts.shape[1] == 1:
        return np.add.reduceat(counts[rows[: ends[-1]]], np.append(0, ends[:-1]), axis=0)
    place = np.full(len(counts), -1, np.int32)
    place[rows[: ends[-1]]] = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    is_in = place >= 0
    pointers = np.append(0, np.cumsum(is_in)).astype(np.int32)
    ones = np.ones(pointers[-1], counts.dtype)
    columns = scipy.sparse.csc_array((ones, place[is_in], pointers), (len(ends), len(counts)))
    return columns @ counts


def _point_estimates(arrays: _Arrays, names: Sequence[str]) -> dict[str, np.ndarray]:
    """AP [C] under each protocol, NaN without a positive: `_average_precisions` of `once`."""
    _check_computable(arrays, names)
    found = {name: np.full(arrays.scores.shape[1], np.nan) for name in names}
    for place, of_class in enumerate(_by_class(arrays)):
        scores, is_positive = of_class.scores, of_class.labels == 1
        for kind in {_ranks_by(name) for name in names}:
            kept = _kept(of_class, kind[0])
            num_images, num_hits = _steps(scores[kept], is_positive[kept], groups_ties=kind[1])
            if not len(num_hits):
                continue
            recall, precision = num_hits / num_hits[-1], num_hits / num_images
            for name in (name for name in names if _ranks_by(name) == kind):
                found[name][place] = PROTOCOLS[name].area(recall[:, None], precision[:, None])[0]
    return found


def _steps(
    scores: np.ndarray, is_positive: np.ndarray, *, groups_ties: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What `_ranking` says of [N] images: images and positives [K] up to the end of each step.

    Where no positive ties with another image, its place in the sorted scores tells as much as a
    ranking, which takes several times as long.
    """
    hits, in_order = np.sort(scores[is_positive])[::-1], np.sort(scores)
    first, end = (np.searchsorted(in_order, hits, side) for side in ("left", "right"))
    if np.all(end - first == 1):
        return len(scores) - first, np.arange(1, len(hits) + 1)
    order = np.argsort(-scores, kind="stable")
    ranking = _ranking(scores, order, is_positive, groups_ties)
    assert ranking is not None  # a positive ties
    return ranking.num_images, ranking.num_positives


def _bootstrap(
    arrays: _Arrays, names: Sequence[str], num_resamples: int, seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """AP [C], and AP [C, R] in each resample, under each protocol.

    A seed draws the same images for all scores.
    """
    pieces = [
        _average_precisions(arrays, names, [once(len(arrays.scores)), counts])
        for counts in draw_resamples(len(arrays.scores), num_resamples, seed)
    ]
    return {
        name: (pieces[0][name][:, 0], np.hstack([piece[name][:, 1:] for piece in pieces]))
        for name in names
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean(values: Iterable[float]) -> float | None:
    """Without NaN; None if there is nothing else."""
    present = [value for value in values if not np.isnan(value)]
    return float(np.mean(present)) if present else None
