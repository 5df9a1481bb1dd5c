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

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vtl.errors import UserError
from vtl.untrusted import printable

RECALL_THRESHOLDS = 0.1 * np.arange(11)
NO_DIFFICULT_FLAGS = "there are no difficult flags"
# Bounds the working memory of the bootstrap at about 100 MB.
MAX_COUNTS_PER_CHUNK = 1 << 20

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
    starts: np.ndarray  # [K] where in `images` each step begins
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
    (ap,) = _point_estimates(_rankings(*arrays, protocol), len(scores), protocol)
    return ap


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
    ranked_by = _checked(ranked_by, labels, None, None, classes=classes)[0]
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
        "binary_accuracy": _mean_of_known((scores > 0.5) == labels, known),
        "loss": _mean_of_known(_cross_entropies(scores, labels), known),
    }
    for name, protocol in PROTOCOLS.items():
        if protocol.leaves_out_difficult and difficult is None:
            result["not_computable"][name] = NO_DIFFICULT_FLAGS
            continue
        rankings = _rankings(ranked_by, labels, difficult, known, name)
        aps = _point_estimates(rankings, len(scores), name)
        samples = _bootstrap(rankings, len(scores), name, num_resamples, seed)
        result["map"][name] = _mean(aps)
        result["map_interval"][name] = interval_of(mean_over_classes(samples))
        result["ap"][name] = dict(zip(classes, aps, strict=True))
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
    arrays = _checked(ranked_by, labels, difficult, label_mask, classes=classes)
    return _mean(_point_estimates(_rankings(*arrays, protocol), len(labels), protocol))


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
        rankings = _rankings(*_checked(scores, labels, difficult, label_mask), protocol)
        maps.append(_mean(_point_estimates(rankings, len(labels), protocol)))
        aps = _bootstrap(rankings, len(labels), protocol, num_resamples, seed)
        samples.append(mean_over_classes(aps))
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
    rankings = _rankings(*_checked(scores, labels, None, label_mask), protocol)
    mean_ap = _mean(_point_estimates(rankings, len(labels), protocol))
    if mean_ap is None:
        raise UserError("no class has a positive image: there is no mAP")
    aps = _bootstrap(rankings, len(labels), protocol, num_resamples, seed)
    return mean_ap, mean_over_classes(aps)


def resampled_map(
    scores: np.ndarray, labels: np.ndarray, protocol: str, counts: np.ndarray
) -> np.ndarray:
    """The mAP in each resample, [R], without difficult flags.

    scores and labels [N, C] as in `evaluate_scores`; image n is counts[n, r] times in resample r,
    counts [N, R]. A class without a positive is left out of the mean; NaN where there is no other.

    Raises:
        UserError: arrays are unusable.
    """
    rankings = _rankings(*_checked(scores, labels, None, None), protocol)
    return mean_over_classes(
        np.stack([_weighted_ap(ranking, counts, protocol) for ranking in rankings])
    )


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


def _cross_entropies(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    probability_of_label = np.where(labels == 1, scores, 1 - scores)
    return -np.log(np.clip(probability_of_label, 1e-7, 1 - 1e-7))


def _mean_of_known(values: np.ndarray, known: np.ndarray) -> float | None:
    """None if nothing is known."""
    return float(np.mean(values[known])) if known.any() else None


def _percent(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "-"
    if interval is None:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _checked(
    scores: Any,
    labels: Any,
    difficult: Any,
    label_mask: Any,
    *,
    classes: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """The arrays, and where labels are known, bool; labels that aren't become 0."""
    scores = np.asarray(scores, np.float64)
    labels = np.asarray(labels)
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
        is_flag = np.isin(array, (0, 1))
        if not is_flag.all():
            raise UserError(f"{name} must be 0 or 1, got {array[~is_flag][0]}")
    if scores.size == 0:
        raise UserError("there are no scores: give at least one image and one class")
    num_bad = (~np.isfinite(scores)).sum(axis=0)
    if num_bad.any():
        by_class = ", ".join(f"{c}: {n}" for c, n in zip(classes, num_bad, strict=True) if n)
        raise UserError(
            f"{num_bad.sum()} of {scores.size} scores are NaN or infinite ({printable(by_class)})"
        )
    known = known.astype(bool)
    return scores, labels * known, difficult, known


def _rankings(
    scores: np.ndarray,
    labels: np.ndarray,
    difficult: np.ndarray | None,
    known: np.ndarray,
    name: str,
) -> list[_Ranking | None]:
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}: choose one of {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    kept = known
    if protocol.leaves_out_difficult:
        if difficult is None:
            raise UserError(f"{name} is not computable: {NO_DIFFICULT_FLAGS}")
        kept = known & ((labels == 1) | (difficult == 0))
    return [
        _ranking(scores[:, c], labels[:, c] == 1, kept[:, c], protocol.groups_ties)
        for c in range(scores.shape[1])
    ]


def _ranking(
    scores: np.ndarray, positive: np.ndarray, kept: np.ndarray, groups_ties: bool
) -> _Ranking | None:
    if not positive.any():
        return None
    images = np.flatnonzero(kept)
    images = images[np.argsort(-scores[images], kind="stable")]
    is_hit = positive[images]
    num_hits = np.cumsum(is_hit)
    if groups_ties:
        ends = np.flatnonzero(np.append(np.diff(scores[images]) != 0, True))
        ends = ends[np.diff(num_hits[ends], prepend=0) > 0]
    else:
        ends = np.flatnonzero(is_hit)
    starts = np.append(0, ends[:-1] + 1)
    return _Ranking(images[: ends[-1] + 1], starts, images[is_hit], num_hits[ends])


def _weighted_ap(ranking: _Ranking | None, counts: np.ndarray, name: str) -> np.ndarray:
    """AP [R] with image n repeated counts[n, r] times; NaN if no positive was drawn."""
    if ranking is None:
        return np.full(counts.shape[1], np.nan)
    num_hits = np.cumsum(counts[ranking.positives], axis=0)[ranking.num_positives - 1]
    num_images = np.cumsum(np.add.reduceat(counts[ranking.images], ranking.starts, axis=0), axis=0)
    recall = num_hits / np.maximum(num_hits[-1], 1)
    precision = num_hits / np.maximum(num_images, 1)
    return np.where(num_hits[-1] > 0, PROTOCOLS[name].area(recall, precision), np.nan)


def _point_estimates(
    rankings: list[_Ranking | None], num_images: int, name: str
) -> list[float | None]:
    counts = np.ones((num_images, 1), int)
    return [
        None if ranking is None else float(_weighted_ap(ranking, counts, name)[0])
        for ranking in rankings
    ]


def _bootstrap(
    rankings: list[_Ranking | None], num_images: int, name: str, num_resamples: int, seed: int
) -> np.ndarray:
    """AP [C, R] in each resample. A seed draws the same images for all scores."""
    rng = np.random.default_rng(seed)
    samples = np.empty((len(rankings), num_resamples))
    chunk = max(1, MAX_COUNTS_PER_CHUNK // num_images)
    for start in range(0, num_resamples, chunk):
        counts = draw_counts(rng, num_images, min(chunk, num_resamples - start))
        for c, ranking in enumerate(rankings):
            samples[c, start : start + chunk] = _weighted_ap(ranking, counts, name)
    return samples


def draw_counts(rng: np.random.Generator, num_images: int, num_resamples: int) -> np.ndarray:
    """How often each resample contains each image, [N, R]."""
    drawn = rng.integers(num_images, size=(num_resamples, num_images))
    cells = drawn * num_resamples + np.arange(num_resamples)[:, None]
    counts = np.bincount(cells.ravel(), minlength=num_images * num_resamples)
    return counts.reshape(num_images, num_resamples)


def _mean(values: list[float | None]) -> float | None:
    present = [v for v in values if v is not None]
    return float(np.mean(present)) if present else None


def mean_over_classes(samples: np.ndarray) -> np.ndarray:
    """samples [C, R] -> [R], NaN left out; NaN where there is nothing else."""
    present = np.isfinite(samples).sum(axis=0)
    total = np.nansum(samples, axis=0)
    return np.where(present > 0, total / np.maximum(present, 1), np.nan)


def has_both(is_positive: np.ndarray) -> bool:
    """Whether there are positives and negatives [N]."""
    return bool(is_positive.any() and not is_positive.all())


def interval_of(samples: np.ndarray) -> list[float] | None:
    """The middle 95 % of samples [R]; None if all are NaN."""
    present = samples[np.isfinite(samples)]
    return np.percentile(present, [2.5, 97.5]).tolist() if present.size else None
