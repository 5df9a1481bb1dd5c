"""When a training run has converged, how certain that is, and how two compare.

Pure functions of measured curves. Times are in epochs. A run that never converges has the time
infinity, which people see as ">N" after N epochs; it stays in every median and interval.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

GUESS = math.log(10)
"""The loss of a uniform guess among ten classes."""

INTERVAL = 95
"""Percent of the bootstrap's resamples that lie in an interval."""

_LEARNT_NOTHING, _BLOWN_UP = 0.95, 2.0
"""Losses as multiples of a uniform guess's: above the first a run has learnt nothing, and one that
ends above the second has been thrown far off."""


def epochs_to_accuracy(epochs: np.ndarray, accuracy: np.ndarray, threshold: float) -> np.ndarray:
    """The first of the moments [M], in epochs, at which accuracy [..., M] reaches `threshold`."""
    return _first(epochs, accuracy >= threshold)


def epochs_to_lowest_loss(epochs: np.ndarray, loss: np.ndarray, tolerance: float) -> np.ndarray:
    """The first of the moments [M], in epochs, at which loss [..., M] is near its lowest value.

    Near is within `tolerance`, a fraction. The time is infinite if the lowest value lies in the
    last epoch, because the loss was still falling, and if the run has learnt nothing, so that its
    loss is never below a uniform guess's.
    """
    lowest = np.min(loss, axis=-1, keepdims=True)  # nan if any loss is
    is_falling = epochs[np.argmin(loss, axis=-1)] > epochs[-1] - 1
    with np.errstate(invalid="ignore"):
        times = _first(epochs, loss <= lowest * (1 + tolerance))
        has_learnt = lowest[..., 0] < _LEARNT_NOTHING * GUESS
    return np.where(has_learnt & ~is_falling, times, np.inf)


def _first(epochs: np.ndarray, reached: np.ndarray) -> np.ndarray:
    return np.where(reached.any(axis=-1), epochs[np.argmax(reached, axis=-1)], np.inf)


def has_diverged(
    train_loss: np.ndarray, loss: np.ndarray, gradient_norms: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Which runs have diverged, [...].

    train_loss, held-out loss and each layer's gradient_norms are [..., M]; losses are in nats. A
    run has diverged in three cases. Its loss is not finite at some moment. Its loss ends above
    twice a uniform guess's. Or its loss ends no better than a uniform guess's, although it had been
    better or a layer gets no gradient at all (its ReLUs are dead). A run that has never been better
    but still has gradients has not diverged.
    """
    learnt_nothing, blown_up = _LEARNT_NOTHING * GUESS, _BLOWN_UP * GUESS
    is_finite = np.isfinite(train_loss).all(axis=-1) & np.isfinite(loss).all(axis=-1)
    is_stuck = np.any([norm[..., -1] == 0 for norm in gradient_norms.values()], axis=0)
    with np.errstate(invalid="ignore"):
        had_learnt = loss.min(axis=-1) < learnt_nothing
        is_lost = (loss[..., -1] > learnt_nothing) & (had_learnt | is_stuck)
        is_far_off = loss[..., -1] > blown_up
    return ~is_finite | is_far_off | is_lost


def best_rate(times: np.ndarray, loss: np.ndarray, diverged: np.ndarray) -> int | None:
    """The index of the best rate, None if all diverged.

    It has the least median time, and among equals the lowest loss. A rate at which any seed
    diverged does not count. times and diverged are [R, S] for R rates and S seeds, loss [R, S, M].
    """
    candidates = np.flatnonzero(~diverged.any(axis=1))
    if not len(candidates):
        return None
    return int(min(candidates, key=lambda r: (median(times[r]), loss[r].min(axis=-1).mean())))


def median(times: np.ndarray) -> float:
    """The median of times [S]; infinite if half of them or more are."""
    return float(np.median(times))


def share_converged(times: np.ndarray) -> list[tuple[float, float]]:
    """The share of runs that have converged by epoch, as steps (epoch, share from then on)."""
    return [(float(t), float(np.mean(times <= t))) for t in np.unique(times[np.isfinite(times)])]


class Estimate(NamedTuple):
    """A number and its bootstrap interval."""

    value: float
    low: float
    high: float


def median_estimate(times: np.ndarray, num_resamples: int, seed: int) -> Estimate:
    """The median of times [S] with its interval over seeds."""
    medians = np.median(times[_resamples(len(times), num_resamples, seed)], axis=1)
    return Estimate(median(times), *_interval(medians, medians))


class Ratio(NamedTuple):
    """How many times as many epochs one training run takes as another, with its interval.

    If the slower one's median is censored, the value is a lower bound and `is_least` is True.
    """

    value: float
    low: float
    high: float
    is_least: bool


def ratio_estimate(
    slow: np.ndarray, fast: np.ndarray, num_epochs: float, num_resamples: int, seed: int
) -> Ratio:
    """The ratio of the medians of `slow` and `fast`, times [S] of runs with the same seeds.

    The interval comes from a paired bootstrap. A censored median can be anything from `num_epochs`
    up, so a resample counts with its lowest possible ratio at the interval's lower end and with its
    highest at the upper end.
    """
    rows = _resamples(len(slow), num_resamples, seed)
    slow_medians, fast_medians = np.median(slow[rows], axis=1), np.median(fast[rows], axis=1)
    lowest, highest = _ratio_bounds(slow_medians, fast_medians, num_epochs)
    low, high = _interval(lowest, highest)
    value, _ = _ratio_bounds(np.median(slow), np.median(fast), num_epochs)
    return Ratio(float(value), low, high, is_least=bool(np.isinf(np.median(slow))))


def _ratio_bounds(
    slow: np.ndarray, fast: np.ndarray, num_epochs: float
) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest ratio that the medians allow; a censored median is infinite."""
    lowest = np.where(np.isinf(fast), 0.0, np.minimum(slow, num_epochs) / fast)
    highest = np.where(np.isinf(slow), np.inf, slow / np.minimum(fast, num_epochs))
    return lowest, highest


def _resamples(num_seeds: int, num_resamples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(num_seeds, size=(num_resamples, num_seeds))


def _interval(lowest: np.ndarray, highest: np.ndarray) -> tuple[float, float]:
    """The middle INTERVAL percent, without interpolation, which would not work with infinities."""
    tail = (100 - INTERVAL) / 2
    low = np.percentile(lowest, tail, method="inverted_cdf")
    high = np.percentile(highest, 100 - tail, method="inverted_cdf")
    return float(low), float(high)
