"""Probabilities that mean what they say: a sigmoid a class, or one temperature for all.

Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines"; Guo et al. 2017, "On
Calibration of Modern Neural Networks".
"""

from typing import Any

import numpy as np
import scipy

from vtl.evaluation.resampling import blocks, columns

PRIOR = np.array([4.0, 0.25])
"""How strongly a slope is held to 1, and an intercept to 0, where positives are few."""

_BOUNDS = (-4.6, 4.6)
"""Of the logarithm of a slope: calibration never turns a ranking around, or makes it flat."""

MAX_STEPS, SMALL_STEP, ROUNDING = 1000, 1e-6, 1e-12
"""Of Newton's method, of which the error after a step is about its square; and of a loss."""

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
    for column, (x, of_class, known) in enumerate(columns(logits, labels, label_mask)):
        is_positive = of_class[known == 1] == 1
        if has_both(is_positive):
            fit = _platt(x[known == 1].astype(np.float64), _targets(is_positive))
            slopes[column], intercepts[column] = fit
    return slopes, intercepts


def _targets(is_positive: np.ndarray) -> np.ndarray:
    return np.where(is_positive, *_two_targets(is_positive.sum(), len(is_positive)))


def _two_targets(num_positives: np.ndarray, num_photos: Any) -> tuple[Any, Any]:
    """Of positives and of negatives."""
    return (num_positives + 1) / (num_positives + 2), 1 / (num_photos - num_positives + 2)


def _platt(x: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """By Newton's method; where a step does not descend, damped as by Levenberg and Marquardt."""
    point, damping = np.zeros(2), 0.0
    loss, gradient, hessian = _around(point, x, targets)
    for _ in range(MAX_STEPS):
        trial = point - _step(gradient, hessian + damping * np.diag(np.diag(hessian)))
        trial[0] = np.clip(trial[0], *_BOUNDS)
        is_last = damping < 1 and np.abs(trial - point).max() < SMALL_STEP
        then = _around(trial, x, targets)
        if is_last or then[0] <= loss + ROUNDING * abs(loss):
            point, (loss, gradient, hessian), damping = trial, then, damping / 10
        else:
            damping = max(10 * damping, 0.01)
        if is_last:
            break
    return float(np.exp(point[0])), float(point[1])


def _around(
    point: np.ndarray, x: np.ndarray, targets: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The loss at a log(slope) and intercept, its gradient and a positive definite Hessian.

    That is the true one, or Fisher's where the true one is not. At the end of what a slope may be
    both are those of the intercept alone, if the loss falls beyond it.
    """
    scaled = np.exp(point[0]) * x
    z = scaled + point[1]
    e = np.exp(-np.abs(z))
    p = np.where(z >= 0, 1, e) / (1 + e)
    residuals, curvature = p - targets, e / (1 + e) ** 2
    loss = np.sum(np.maximum(z, 0) + np.log1p(e) - targets * z) + PRIOR @ point**2 / 2
    bend, crosswise = np.sum(residuals * scaled), curvature * scaled
    gradient = np.array([bend, residuals.sum()]) + PRIOR * point
    cross = crosswise.sum()
    fisher = np.array([[np.sum(crosswise * scaled), cross], [cross, curvature.sum()]])
    fisher += np.diag(PRIOR)
    if not _BOUNDS[0] < point[0] - np.sign(gradient[0]) * SMALL_STEP < _BOUNDS[1]:
        gradient[0] = fisher[0, 1] = fisher[1, 0] = 0
        return loss, gradient, fisher
    hessian = fisher + np.diag([bend, 0])
    is_definite = hessian[0, 0] > 0 and hessian[0, 0] * hessian[1, 1] > cross**2
    return loss, gradient, hessian if is_definite else fisher


def _step(gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """The hessian's inverse times the gradient: LAPACK takes longer over two numbers."""
    (a, b), (_, c) = hessian
    return np.array([c * gradient[0] - b * gradient[1], a * gradient[1] - b * gradient[0]]) / (
        a * c - b * b
    )


def resampled(
    logits: np.ndarray,
    labels: np.ndarray,
    label_mask: np.ndarray,
    slopes: np.ndarray,
    intercepts: np.ndarray,
    counts: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The slopes [C, R] and intercepts [C, R] of resamples with photo n counts[n, r] times.

    One step of Newton's method from `platt`, slopes and intercepts [C], which is near enough for an
    interval; the arrays are those it was given. A slope at the end of what it may be stays there.
    """
    num_photos, num_classes = logits.shape
    gradients = np.zeros((2, num_classes, counts.shape[1]))
    hessians = np.tile(np.diag(PRIOR)[..., None], num_classes)
    targets = _two_targets(((labels == 1) & (label_mask == 1)).sum(axis=0), label_mask.sum(axis=0))
    for rows in blocks(num_photos, max(num_classes, counts.shape[1])):
        is_known = label_mask[rows] == 1
        scaled = logits[rows].astype(np.float64) * slopes
        p = scipy.special.expit(scaled + intercepts)
        residuals = (p - np.where(labels[rows] == 1, *targets)) * is_known
        curvature = p * (1 - p) * is_known
        weights = counts[rows].astype(np.float64)
        gradients += [(residuals * scaled).T @ weights, residuals.T @ weights]
        cross = (curvature * scaled).sum(axis=0)
        hessians += [[(curvature * scaled**2).sum(axis=0), cross], [cross, curvature.sum(axis=0)]]
    point = np.stack([np.log(slopes), intercepts])
    gradients += (PRIOR[:, None] * point)[..., None]
    is_free = (_BOUNDS[0] < point[0]) & (point[0] < _BOUNDS[1])
    hessians[0, 1, ~is_free] = gradients[0, ~is_free] = 0
    steps = np.linalg.solve(hessians.transpose(2, 0, 1), gradients.transpose(1, 0, 2))
    log_slopes, intercepts = (point.T[..., None] - steps).transpose(1, 0, 2)
    return np.exp(np.clip(log_slopes, *_BOUNDS)), intercepts


def expected_positives(
    logits: np.ndarray,
    label_mask: np.ndarray,
    slopes: np.ndarray,
    intercepts: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """The sums [C, R] of probabilities by fits [C, R], with photo n counts[n, r] times.

    Only where label_mask [N, C] is 1. By NumPy's exp and not SciPy's expit, which takes several
    times as long.
    """
    totals = np.zeros(slopes.shape)
    for rows in blocks(len(logits), 8 * counts.shape[1]):  # that a cache holds
        x = np.where(label_mask[rows] == 1, logits[rows], -np.inf).T.astype(np.float64, order="C")
        weights = counts[rows].astype(np.float64)
        out = np.empty(weights.shape)
        with np.errstate(over="ignore"):  # to infinity, which is a probability of 0
            for column in range(len(totals)):
                np.multiply(x[column, :, None], -slopes[column], out=out)
                out -= intercepts[column]
                np.exp(out, out=out)
                out += 1
                np.divide(weights, out, out=out)
                totals[column] += out.sum(axis=0)
    return totals


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T of p = softmax(logits / T) with the least cross-entropy; a single 1 a row of labels.

    A penalty of half its squared logarithm keeps it near 1 where photos are few.
    """
    truth = labels.argmax(axis=1)[:, None]

    def objective(log_t: float) -> float:
        loss = 0.5 * log_t**2
        for rows in blocks(*logits.shape):
            scaled = logits[rows].astype(np.float64) / np.exp(log_t)
            scaled -= scaled.max(axis=1, keepdims=True)
            of_truth = np.take_along_axis(scaled, truth[rows], axis=1)
            loss += np.log(np.exp(scaled).sum(axis=1)).sum() - of_truth.sum()
        return loss

    log_t = scipy.optimize.minimize_scalar(objective, bounds=_BOUNDS, method="bounded").x
    return float(np.exp(log_t))


def brier(probabilities: np.ndarray, labels: np.ndarray, label_mask: np.ndarray) -> float | None:
    """The mean squared difference of probabilities and labels [N, C] that count; None of none."""
    total, number = 0.0, 0
    for rows in blocks(*labels.shape):
        differences = (probabilities[rows] - labels[rows])[label_mask[rows] == 1]
        total, number = total + np.sum(differences**2, dtype=np.float64), number + len(differences)
    return float(total / number) if number else None


def reliability(
    probabilities: np.ndarray, labels: np.ndarray, label_mask: np.ndarray
) -> float | None:
    """How far probabilities are from frequencies: Murphy's term of the Brier score, 0 at best.

    The mean over all labels that count of (mean probability - frequency)^2 of their bin; None of
    none.
    """
    sizes, gaps = np.zeros(NUM_BINS), np.zeros(NUM_BINS)
    for rows in blocks(*labels.shape):
        counts = label_mask[rows] == 1
        p, y = probabilities[rows][counts].astype(np.float64), labels[rows][counts]
        bins = np.minimum((p * NUM_BINS).astype(int), NUM_BINS - 1)
        sizes += np.bincount(bins, minlength=NUM_BINS)
        gaps += np.bincount(bins, p - y, minlength=NUM_BINS)
    number = sizes.sum()
    return float(np.sum(gaps**2 / np.maximum(sizes, 1)) / number) if number else None
