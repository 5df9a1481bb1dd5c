"""From which probability on a photo has a class, chosen on photos that were not trained on."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
from absl import logging

from vtl import decisions as answered
from vtl.decisions import HALF, Decisions
from vtl.errors import UserError
from vtl.evaluation import calibration
from vtl.evaluation.calibration import has_both
from vtl.evaluation.resampling import (
    blocks,
    columns,
    draw_resamples,
    interval_of,
    once,
)
from vtl.untrusted import printable

FEW = 10
"""Positives below which a threshold is a guess."""

NUM_RESAMPLES = 200

FIRST_PHOTOS, GROWTH = 1024, 2
"""How many of the likeliest photos are looked at first for the best cut, and how many times more
where a cut below them could be better."""

ROUNDING = 1 + 1e-9


class Unseen(NamedTuple):
    """Scores of photos that the network was not trained on: logits, labels, label_mask [N, C]."""

    logits: np.ndarray
    labels: np.ndarray
    label_mask: np.ndarray
    in_words: str


def check_rule(rule: str) -> None:
    """Refuse what `choose` can't choose by.

    Raises:
        UserError: it is neither f1 nor precision:P with P above 0 and up to 1.
    """
    _least_precision(rule)


def _least_precision(rule: str) -> float | None:
    """The P of `precision:P`, None of `f1`."""
    if rule == "f1":
        return None
    name, _, number = rule.partition(":")
    try:
        least = float(number)
    except ValueError:
        least = 0.0
    if name != "precision" or not 0 < least <= 1:
        raise UserError(
            f"thresholds must be f1, or precision:P with P above 0 and up to 1 as in "
            f"precision:0.9, got {printable(rule, 40)}"
        )
    return least


def decide(
    unseen: Unseen | None, classes: Sequence[str], rule: str, *, one_label_each: bool, seed: int
) -> tuple[Decisions | None, dict[str, Any] | None]:
    """Calibrate and choose by `rule`; the decisions, and what results.json says of them.

    Without unseen photos, or with scores that are not finite, both are None. With `one_label_each`
    the answer is the likeliest class, so that f1 chooses no threshold, and a precision chooses from
    which probability on the likeliest class is an answer.

    Raises:
        UserError: the rule is neither f1 nor precision:P.
    """
    if unseen is None:
        return None, None
    if not np.isfinite(unseen.logits).all():
        logging.warning("no thresholds: scores of %s are not finite", unseen.in_words)
        return None, None
    logits, labels, label_mask, in_words = unseen
    if one_label_each:
        slopes = np.full(len(classes), 1 / calibration.temperature(logits, labels))
        intercepts = np.zeros(len(classes))
    else:
        slopes, intercepts = calibration.platt(logits, labels, label_mask)
    half = (HALF,) * len(classes)
    given = Decisions(tuple(slopes.tolist()), tuple(intercepts.tolist()), half, rule, in_words)
    by_class = _choose(unseen, given, one_label_each=one_label_each, seed=seed)
    thresholds = tuple(entry["threshold"] for entry in by_class)
    record = {
        "rule": rule,
        "chosen_on": in_words,
        "num_images": len(labels),
        "by_class": dict(zip(classes, by_class, strict=True)),
        "slopes": dict(zip(classes, given.slopes, strict=True)),
        "intercepts": dict(zip(classes, given.intercepts, strict=True)),
    }
    return dataclasses.replace(given, thresholds=thresholds), record


def _choose(
    unseen: Unseen, given: Decisions, *, one_label_each: bool, seed: int
) -> list[dict[str, Any]]:
    """Of each class: threshold, its 95 % interval by a bootstrap over photos, positives, and note.

    `f1` takes the threshold of the best F1, `precision:P` that of the highest recall whose
    precision is at least P, half-way to the next lower probability. Both are expected values by the
    calibrated probabilities: with tens of positives those of the labels themselves vary several
    times as much (Lipton et al. 2014, "Optimal Thresholding of Classifiers to Maximize F1
    Measure"). Where no threshold has the precision, it lies above all photos. A class with no
    positive, or no negative, gets a half and no interval.
    """
    least_precision = _least_precision(given.rule)
    logits, labels, label_mask, _ = unseen
    if one_label_each and least_precision is None:
        return [_entry(0.0, None, positives, "") for positives in labels.sum(axis=0).tolist()]
    drawn = draw_resamples(len(labels), NUM_RESAMPLES, seed)
    counts = np.hstack([of.astype(np.min_scalar_type(of.max())) for of in drawn])
    if one_label_each:
        p = answered.probabilities(logits, given, one_label_each=True)
        likeliest = p.argmax(axis=1)
        totals = _sums(p, label_mask, counts)
    else:
        fit = np.array(given.slopes), np.array(given.intercepts)
        fits = calibration.resampled(logits, labels, label_mask, *fit, counts)
        totals = calibration.expected_positives(logits, label_mask, *fits, counts)
    found = []
    of_classes = columns(p if one_label_each else logits, labels, label_mask)
    for column, (of_class, labels_of_class, mask) in enumerate(of_classes):
        is_known = mask == 1
        if one_label_each:
            cuts, refits = _Cuts(of_class, is_known, likeliest == column), None
        else:
            cuts = _Cuts(_calibrated(of_class, given, column), is_known, is_known)
            slopes, intercepts = fits
            refits = _Fits(of_class, slopes[column], intercepts[column])
        is_positive = labels_of_class[is_known] == 1
        found.append(_of_class(cuts, is_positive, counts, totals[column], refits, least_precision))
    return found


def _sums(p: np.ndarray, label_mask: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The sums [C, R] of p [N, C] where the mask is 1, with photo n counts[n, r] times."""
    totals = np.zeros((p.shape[1], counts.shape[1]))
    for rows in blocks(len(p), max(totals.shape)):
        known = np.where(label_mask[rows] == 1, p[rows], 0).astype(np.float64)
        totals += known.T @ counts[rows].astype(np.float64)
    return totals


def _calibrated(x: np.ndarray, given: Decisions, column: int) -> np.ndarray:
    """One class's probabilities [N] from its logits x [N]: those of all take as much memory."""
    of_class = dataclasses.replace(
        given,
        slopes=given.slopes[column : column + 1],
        intercepts=given.intercepts[column : column + 1],
    )
    return answered.probabilities(x[:, None], of_class, one_label_each=False)[:, 0]


def _of_class(
    cuts: "_Cuts",
    is_positive: np.ndarray,
    counts: np.ndarray,
    totals: np.ndarray,
    refits: "_Fits | None",
    least: float | None,
) -> dict[str, Any]:
    num_positives = int(is_positive.sum())
    if not has_both(is_positive):
        missing = "negative" if num_positives else "positive"
        return _entry(HALF, None, num_positives, f"no {missing}")
    threshold = cuts.chosen(least)
    if np.isnan(threshold):
        return _entry(HALF, None, num_positives, "never the likeliest")
    note = ""
    if least and threshold > cuts.highest:
        note = f"no threshold has a precision of {least:g}"
    elif num_positives < FEW:
        note = "a guess: few positives"
    by_sample = cuts.best(counts, totals, least, refits)
    return _entry(threshold, interval_of(by_sample), num_positives, note)


def _entry(
    threshold: float, interval: list[float] | None, positives: int, note: str
) -> dict[str, Any]:
    return {"threshold": threshold, "interval": interval, "positives": positives, "note": note}


class _Fits(NamedTuple):
    """Of one class: logits [N], and slopes and intercepts [R] of resamples."""

    logits: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray


class _Cuts:
    """Where one class's photos can be cut in two: between each two different probabilities."""

    def __init__(self, p: np.ndarray, is_known: np.ndarray, may_answer: np.ndarray):
        """Of probabilities p [N]; a photo that may not answer is none, however likely."""
        known = np.flatnonzero(is_known)
        self._p, self._ranked = p, known[np.argsort(-p[known], kind="stable")]
        self._answers = self._ranked[may_answer[self._ranked]]
        answering = p[self._answers]
        self._ends = np.flatnonzero(np.diff(answering, append=-1) != 0)
        self.highest = float(answering[0]) if len(answering) else 0.0
        above, below = answering[self._ends], np.append(answering[self._ends[1:]], np.float32(0))
        middle = (above + below) / 2
        self._thresholds = np.where(middle > below, middle, above).astype(np.float64)

    def chosen(self, least_precision: float | None) -> float:
        """The best threshold; NaN if no photo may answer."""
        total = self._p[self._ranked, None].astype(np.float64).sum(axis=0)
        return float(self.best(once(len(self._p)), total, least_precision, None)[0])

    def best(
        self,
        counts: np.ndarray,
        totals: np.ndarray,
        least_precision: float | None,
        refits: _Fits | None,
    ) -> np.ndarray:
        """The threshold [R] in each resample, which has photo n counts[n, r] times.

        `totals` [R] are the positives to expect, and `refits` what gives each resample its own
        probabilities. NaN where no photo may answer, or a resample has none whose label is known.
        """
        found = np.full(counts.shape[1], np.nan)
        left, size = np.flatnonzero((totals > 0) & (len(self._answers) > 0)), FIRST_PHOTOS
        while len(left):
            rows, unfinished = self._answers[:size], []
            ends = self._ends[: np.searchsorted(self._ends, len(rows))]
            for block in blocks(len(left), len(rows)):
                of = left[block]
                drawn = counts[np.ix_(rows, of)]
                hits = np.cumsum(self._probabilities(rows, of, refits) * drawn, axis=0)[ends]
                answers = np.cumsum(drawn, axis=0)
                value = _value(answers[ends], hits, totals[of], least_precision)
                highest = value.max(axis=0, initial=0)
                ends_here = _ends_here(answers[-1], totals[of], highest, least_precision)
                ends_here |= len(rows) == len(self._answers)
                unfinished.append(of[~ends_here])
                is_best = value[:, ends_here].argmax(axis=0) if len(ends) else 0
                found[of[ends_here]] = np.where(
                    highest[ends_here] > 0, self._thresholds[is_best], (self.highest + 1) / 2
                )
            left, size = np.concatenate(unfinished), size * GROWTH
        return found

    def _probabilities(self, rows: np.ndarray, of: np.ndarray, refits: _Fits | None) -> np.ndarray:
        """[rows, 1], or [rows, of] by the resamples' own fits."""
        if refits is None:
            return self._p[rows, None].astype(np.float64)
        x = refits.logits[rows, None].astype(np.float64)
        return scipy.special.expit(x * refits.slopes[of] + refits.intercepts[of])


def _value(
    answers: np.ndarray, hits: np.ndarray, total: np.ndarray, least_precision: float | None
) -> np.ndarray:
    """What the best of some cuts has most of, from answers and hits [K, R] and positives [R]."""
    if least_precision is None:
        return 2 * hits / (answers + total)
    return np.where(hits >= least_precision * np.maximum(answers, 1), hits, 0)


def _ends_here(
    answers: np.ndarray, total: np.ndarray, best: np.ndarray, least_precision: float | None
) -> np.ndarray:
    """Where no cut with at least so many answers [R] is better: its hits are at most `total`."""
    if least_precision is None:
        return 2 * total * ROUNDING / (answers + total) < best
    return least_precision * answers > total * ROUNDING
