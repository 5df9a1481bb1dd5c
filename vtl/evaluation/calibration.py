"""Probabilities that mean what they say: a sigmoid a class, or one temperature for all.

Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines"; Guo et al. 2017, "On
Calibration of Modern Neural Networks".
"""

import numpy as np
import scipy

PRIOR = np.array([4.0, 0.25])
"""How strongly a slope is held to 1, and an intercept to 0, where positives are few."""

_BOUNDS = ((-4.6, 4.6), (None, None))
"""Of the logarithm of a slope: calibration never turns a ranking around, or makes it flat."""

NUM_BINS = 10
"""Of equal width, between which probabilities are compared with frequencies."""


def has_both(is_positive: np.ndarray) -> bool:
    """Whether there are positives and negatives [N]."""
    return bool(is_positive.any() and not is_positive.all())


def platt(
    logits: np.ndarray, labels: np.ndarray, label_mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The slopes [C] and intercepts [C] of p = sigmoid(slope * logit + intercept).

    logits, labels, label_mask [N, C]; labels count where the mask is 1. Minimises the cross-entropy
    with Platt's targets, (P + 1) / (P + 2) for the P positives and 1 / (N + 2) for the N negatives,
    plus half of PRIOR times the squares of log(slope) and of the intercept. A class with no
    positive, or no negative, keeps its probabilities.
    """
    slopes, intercepts = np.ones(logits.shape[1]), np.zeros(logits.shape[1])
    for column in range(logits.shape[1]):
        counts = label_mask[:, column] == 1
        x, is_positive = logits[counts, column].astype(np.float64), labels[counts, column] == 1
        if has_both(is_positive):
            slopes[column], intercepts[column] = _platt(x, _targets(is_positive))
    return slopes, intercepts


def _targets(is_positive: np.ndarray) -> np.ndarray:
    num_positives = is_positive.sum()
    num_negatives = len(is_positive) - num_positives
    return np.where(is_positive, (num_positives + 1) / (num_positives + 2), 1 / (num_negatives + 2))


def _platt(x: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = np.exp(point[0]) * x
        z = scaled + point[1]
        residuals = scipy.special.expit(z) - targets
        loss = np.sum(np.logaddexp(0, z) - targets * z) + PRIOR @ point**2 / 2
        return loss, np.array([residuals @ scaled, residuals.sum()]) + PRIOR * point

    log_slope, intercept = scipy.optimize.minimize(
        objective, np.zeros(2), jac=True, bounds=_BOUNDS
    ).x
    return float(np.exp(log_slope)), float(intercept)


def resampled(
    x: np.ndarray, is_positive: np.ndarray, slope: float, intercept: float, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The slopes [R] and intercepts [R] of resamples that have photo n counts[n, r] times.

    One step of Newton's method from the fit to logits x [n], which is near enough for an interval.
    A slope at the end of what it may be stays there.
    """
    scaled = slope * x
    p = scipy.special.expit(scaled + intercept)
    residuals, curvature = p - _targets(is_positive), p * (1 - p)
    gradients = np.stack([residuals * scaled, residuals]) @ counts
    point = np.array([np.log(slope), intercept])
    gradients += (PRIOR * point)[:, None]
    cross = curvature @ scaled
    hessian = np.array([[curvature @ scaled**2, cross], [cross, curvature.sum()]])
    hessian += np.diag(PRIOR)
    if not _BOUNDS[0][0] < point[0] < _BOUNDS[0][1]:
        return np.full(counts.shape[1], slope), intercept - gradients[1] / hessian[1, 1]
    log_slopes, intercepts = point[:, None] - np.linalg.solve(hessian, gradients)
    return np.exp(np.clip(log_slopes, *_BOUNDS[0])), intercepts


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T of p = softmax(logits / T) with the least cross-entropy; a single 1 a row of labels.

    A penalty of half its squared logarithm keeps it near 1 where photos are few.
    """
    truth = labels.argmax(axis=1)
    rows = np.arange(len(labels))

    def objective(log_t: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_t)
        by_photo = scipy.special.log_softmax(scaled, axis=1)[rows, truth]
        return -by_photo.sum() + 0.5 * log_t**2

    log_t = scipy.optimize.minimize_scalar(objective, bounds=_BOUNDS[0], method="bounded").x
    return float(np.exp(log_t))


def brier(probabilities: np.ndarray, labels: np.ndarray, label_mask: np.ndarray) -> float | None:
    """The mean squared difference of probabilities and labels [N, C] that count; None of none."""
    if not label_mask.any():
        return None
    return float(np.mean((probabilities - labels)[label_mask == 1] ** 2))


def reliability(
    probabilities: np.ndarray, labels: np.ndarray, label_mask: np.ndarray
) -> float | None:
    """How far probabilities are from frequencies: Murphy's term of the Brier score, 0 at best.

    The mean over all labels that count of (mean probability - frequency)^2 of their bin; None of
    none.
    """
    if not label_mask.any():
        return None
    counts = label_mask == 1
    p, y = probabilities[counts].astype(np.float64), labels[counts]
    bins = np.minimum((p * NUM_BINS).astype(int), NUM_BINS - 1)
    sizes = np.bincount(bins, minlength=NUM_BINS)
    gaps = np.bincount(bins, p - y, minlength=NUM_BINS) / np.maximum(sizes, 1)
    return float(np.sum(sizes * gaps**2) / len(p))
