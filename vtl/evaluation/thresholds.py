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
from vtl.evaluation.resampling import MAX_COUNTS_PER_CHUNK, draw_resamples, interval_of, once
from vtl.untrusted import printable

FEW = 10
"""Positives below which a threshold is a guess."""

NUM_RESAMPLES = 200

FIRST_PHOTOS, GROWTH = 1024, 8
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
    p = answered.probabilities(unseen.logits, given, one_label_each=one_label_each)
    num_images, num_classes = p.shape
    if one_label_each and least_precision is None:
        positives = unseen.labels.sum(axis=0).tolist()
        return [_entry(0.0, None, num_positives, "") for num_positives in positives]
    may_answer = np.ones(p.shape, bool)
    if one_label_each:
        may_answer = np.arange(num_classes) == p.argmax(axis=1)[:, None]
    cuts = [
        _Cuts(unseen, given, column, p[:, column], may_answer[:, column])
        for column in range(num_classes)
    ]
    pieces = [
        [of.resampled(counts, least_precision, refits=not one_label_each) for of in cuts]
        for counts in draw_resamples(num_images, NUM_RESAMPLES, seed)
    ]
    by_sample = np.concatenate(pieces, axis=1)
    return [
        _of_class(cuts[column], by_sample[column], least_precision) for column in range(num_classes)
    ]


def _of_class(cuts: "_Cuts", by_sample: np.ndarray, least: float | None) -> dict[str, Any]:
    num_positives = int(cuts.is_positive.sum())
    if not has_both(cuts.is_positive):
        missing = "negative" if num_positives else "positive"
        return _entry(HALF, None, num_positives, f"no {missing}")
    threshold = cuts.best(least)
    if np.isnan(threshold):
        return _entry(HALF, None, num_positives, "never the likeliest")
    note = ""
    if least and threshold > cuts.highest:
        note = f"no threshold has a precision of {least:g}"
    elif num_positives < FEW:
        note = "a guess: few positives"
    return _entry(threshold, interval_of(by_sample), num_positives, note)


def _entry(
    threshold: float, interval: list[float] | None, positives: int, note: str
) -> dict[str, Any]:
    return {"threshold": threshold, "interval": interval, "positives": positives, "note": note}


class _Cuts:
    """Where one class's photos can be cut in two: between each two different probabilities."""

    def __init__(
        self,
        unseen: Unseen,
        given: Decisions,
        column: int,
        p: np.ndarray,
        may_answer: np.ndarray,
    ):
        """Of probabilities p [N]; a photo that may not answer is none, however likely."""
        known = np.flatnonzero(unseen.label_mask[:, column] == 1)
        self._rows = known[np.argsort(-p[known], kind="stable")]
        self._p = p[self._rows].astype(np.float32)
        self._x = unseen.logits[self._rows, column].astype(np.float64)
        self._fit = given.slopes[column], given.intercepts[column]
        self.is_positive = unseen.labels[self._rows, column] == 1
        self._answers = np.flatnonzero(may_answer[self._rows])
        answering = self._p[self._answers]
        self._ends = np.flatnonzero(np.diff(answering, append=-1) != 0)
        self.highest = float(answering[0]) if len(answering) else 0.0
        above, below = answering[self._ends], np.append(answering[self._ends[1:]], np.float32(0))
        middle = (above + below) / 2
        self._thresholds = np.where(middle > below, middle, above).astype(np.float64)

    def best(self, least_precision: float | None) -> float:
        """The threshold; NaN if no photo may answer."""
        hits = self._p[:, None].astype(np.float64)
        return float(self._best(once(len(hits)), hits, least_precision)[0])

    def resampled(
        self, counts: np.ndarray, least_precision: float | None, *, refits: bool
    ) -> np.ndarray:
        """The threshold [R] in each resample, which has photo n counts[n, r] times."""
        counts = counts[self._rows]
        does_refit = refits and has_both(self.is_positive)
        at_once = max(1, MAX_COUNTS_PER_CHUNK // max(1, len(counts)))
        found = []
        for first in range(0, counts.shape[1], at_once):
            piece = np.ascontiguousarray(counts[:, first : first + at_once])
            hits = np.empty(piece.shape)
            if does_refit:
                fit = calibration.resampled(self._x, self.is_positive, *self._fit, piece)
                self._expect(*fit, hits)
                hits *= piece
            else:
                np.multiply(piece, self._p[:, None].astype(np.float64), out=hits)
            found.append(self._best(piece, hits, least_precision))
        return np.concatenate(found)

    def _expect(self, slopes: np.ndarray, intercepts: np.ndarray, out: np.ndarray) -> None:
        """Fill `out` [n, R] with the probabilities by R fits; new memory costs as much as these."""
        np.multiply(self._x[:, None], slopes, out=out)
        out += intercepts
        scipy.special.expit(out, out=out)

    def _best(
        self, counts: np.ndarray, hits: np.ndarray, least_precision: float | None
    ) -> np.ndarray:
        """The threshold [R] with photo n counts[n, r] times, and so many expected hits [n, R]."""
        if not len(self._ends):
            return np.full(counts.shape[1], np.nan)
        total = hits.sum(axis=0)
        size = FIRST_PHOTOS
        while True:
            rows = self._answers[:size]
            answers, found = (np.cumsum(of[rows], axis=0) for of in (counts, hits))
            ends = self._ends[: np.searchsorted(self._ends, len(rows))]
            value = _value(answers[ends], found[ends], total, least_precision)
            if len(rows) == len(self._answers) or (
                len(ends) and _ends_here(answers[-1], total, value.max(axis=0), least_precision)
            ):
                break
            size *= GROWTH
        thresholds = self._thresholds[value.argmax(axis=0)]
        return np.where(value.max(axis=0) > 0, thresholds, (self.highest + 1) / 2)


def _value(
    answers: np.ndarray, hits: np.ndarray, total: np.ndarray, least_precision: float | None
) -> np.ndarray:
    """What the best of some cuts has most of, from answers and hits [K, R] and positives [R]."""
    if least_precision is None:
        return 2 * hits / (answers + total)
    return np.where(hits >= least_precision * np.maximum(answers, 1), hits, 0)


def _ends_here(
    answers: np.ndarray, total: np.ndarray, best: np.ndarray, least_precision: float | None
) -> bool:
    """Whether no cut with at least so many answers [R] is better: its hits are at most `total`."""
    if least_precision is None:
        return bool(np.all(2 * total * ROUNDING / (answers + total) < best))
    return bool(np.all(least_precision * answers > total * ROUNDING))
