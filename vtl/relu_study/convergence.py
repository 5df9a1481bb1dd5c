"""When a training has converged, how sure that is, and what can be said of two.

Pure functions of measured curves. Times are in epochs; a run that never gets there has the time
infinity and stays in every median and interval: for people it is ">N" after N epochs.
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
"""Times the loss of a uniform guess: above the first nothing has been learnt,
and what ends above the second has been thrown far off."""


def epochs_to_accuracy(epochs: np.ndarray, accuracy: np.ndarray, threshold: float) -> np.ndarray:
    """The first of the moments, epochs [M], at which accuracy [..., M] is at least `threshold`."""
    return _first(epochs, accuracy >= threshold)


def epochs_to_lowest_loss(epochs: np.ndarray, loss: np.ndarray, tolerance: float) -> np.ndarray:
    """The first of the moments [M] at which loss [..., M] is within `tolerance` of its lowest.

    `tolerance` is a fraction. Where the lowest lies in the last epoch the loss was still falling
    and the lowest is not known: the run has not got there. Nor has one that has learnt nothing,
    whose loss is never below that of a uniform guess.
    """
    lowest = np.min(loss, axis=-1, keepdims=True)  # nan where any is
    is_falling = epochs[np.argmin(loss, axis=-1)] > epochs[-1] - 1
    with np.errstate(invalid="ignore"):
        times = _first(epochs, loss <= lowest * (1 + tolerance))
    with np.errstate(invalid="ignore"):
        has_learnt = lowest[..., 0] < _LEARNT_NOTHING * GUESS
    return np.where(has_learnt & ~is_falling, times, np.inf)


def _first(epochs: np.ndarray, reached: np.ndarray) -> np.ndarray:
    return np.where(reached.any(axis=-1), epochs[np.argmax(reached, axis=-1)], np.inf)


def has_diverged(
    train_loss: np.ndarray, loss: np.ndarray, gradient_norms: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Which runs have diverged, [...].

    train_loss, held-out loss and each layer's gradient_norms are [..., M]; losses in nats. Diverged
    is a run whose loss is not finite at any moment, or ends above twice that of a uniform guess, or
    no better than it although it had been better or while a layer gets no gradient at all (its
    ReLUs are dead).
    A run that has never left that plateau but still has gradients has not diverged.
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
    """The rate with the least median time, and among equals the lowest loss; None if all diverged.

    times, diverged [R, S] of R rates and S seeds, loss [R, S, M]. A rate at which any seed diverged
    is out.
    """
    sound = np.flatnonzero(~diverged.any(axis=1))
    if not len(sound):
        return None
    return int(min(sound, key=lambda r: (median(times[r]), loss[r].min(axis=-1).mean())))


def median(times: np.ndarray) -> float:
    """The median of times [S]: infinity, which is ">N", where half of the runs or more are."""
    return float(np.median(times))


def share_converged(times: np.ndarray) -> list[tuple[float, float]]:
    """The steps of the curve "share of runs converged by epoch": (epoch, share from there on)."""
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
    """How many times as many epochs one training takes as another, with its interval.

    Where the slower one's median is censored the value is the least that it can be, and `is_least`.
    """

    value: float
    low: float
    high: float
    is_least: bool


def ratio_estimate(
    slow: np.ndarray, fast: np.ndarray, num_epochs: float, num_resamples: int, seed: int
) -> Ratio:
    """The ratio of two medians, times [S] each, run by run of the same seeds.

    The interval is of a paired bootstrap. A censored median is anything from `num_epochs` up: a
    resample then counts with the lowest ratio that is possible at the interval's lower end and with
    the highest at its upper.
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
    """The lowest and the highest ratio that medians, infinite where censored, allow."""
    lowest = np.where(np.isinf(fast), 0.0, np.minimum(slow, num_epochs) / fast)
    highest = np.where(np.isinf(slow), np.inf, slow / np.minimum(fast, num_epochs))
    return lowest, highest


def _resamples(num_seeds: int, num_resamples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(num_seeds, size=(num_resamples, num_seeds))


def _interval(lowest: np.ndarray, highest: np.ndarray) -> tuple[float, float]:
    """The middle INTERVAL percent; by values that occur, so that infinities stay what they are."""
    tail = (100 - INTERVAL) / 2
    low = np.percentile(lowest, tail, method="inverted_cdf")
    high = np.percentile(highest, 100 - tail, method="inverted_cdf")
    return float(low), float(high)
