import itertools

import numpy as np
import pytest

from vtl.relu_study import convergence

EPOCHS = np.arange(1, 31) / 10  # three epochs
INF = np.inf


def test_the_first_moment_at_the_threshold_counts_even_if_it_is_lost_again():
    accuracy = np.full((3, 30), 0.9)
    accuracy[0, 4] = 0.97
    accuracy[1, 29] = 0.98
    times = convergence.epochs_to_accuracy(EPOCHS, accuracy, 0.97)
    np.testing.assert_array_equal(times, [0.5, 3.0, INF])
    nan = np.full((1, 30), np.nan)
    np.testing.assert_array_equal(convergence.epochs_to_accuracy(EPOCHS, nan, 0.97), [INF])


def test_the_lowest_loss_counts_once_it_is_known():
    turning = np.abs(EPOCHS - 1.0) + 1  # lowest, 1, at epoch 1
    falling = 3 - EPOCHS / 2
    plateau = 2.3 - 1e-5 * turning
    losses = np.stack([turning, falling, np.full(30, np.nan), plateau])
    times = convergence.epochs_to_lowest_loss(EPOCHS, losses, 0.01)
    np.testing.assert_array_equal(times, [1.0, INF, INF, INF])
    times = convergence.epochs_to_lowest_loss(EPOCHS, losses, 0.25)
    np.testing.assert_array_equal(times, [0.8, INF, INF, INF])  # 1.2 is within 25 % of 1


def test_what_has_diverged():
    plateau = np.full(30, np.log(10))
    runs = {
        "learns": (np.linspace(2, 0.1, 30), 1.0, False),
        "has not left the plateau yet": (plateau, 1e-3, False),
        "is dead": (plateau, 0.0, True),
        "has lost what it had": (np.r_[2.0, 1.5, plateau[2:]], 1e-3, True),
        "started badly": (np.r_[20.0, np.linspace(2, 0.1, 29)], 1.0, False),
        "is far off": (np.full(30, 20.0), 1.0, True),
        "is not finite at the end": (np.r_[plateau[1:], np.nan], np.nan, True),
        "was infinite": (np.r_[np.inf, np.linspace(2, 0.1, 29)], 1.0, True),
    }
    losses = np.stack([loss for loss, _, _ in runs.values()])
    norms = {
        "dense1": np.stack([np.full(30, norm) for _, norm, _ in runs.values()]),
        "dense2": np.ones_like(losses),
    }
    diverged = convergence.has_diverged(losses, losses, norms)
    assert dict(zip(runs, diverged.tolist(), strict=True)) == {n: r[2] for n, r in runs.items()}
    train_loss = losses.copy()
    train_loss[0, 7] = np.nan
    assert convergence.has_diverged(train_loss, losses, norms)[0]


def test_the_best_rate_has_the_fewest_epochs_then_the_lowest_loss():
    times = np.array([[5.0], [2.0], [2.0], [1.0]])
    loss = np.array([[[0.3]], [[0.2]], [[0.1]], [[0.4]]])
    diverged = np.array([[False], [False], [False], [True]])
    assert convergence.best_rate(times, loss, diverged) == 2
    nowhere = np.full((4, 1), INF)
    assert convergence.best_rate(nowhere, loss, diverged) == 2
    assert convergence.best_rate(times, loss, np.ones((4, 1), bool)) is None
    # By the median of several seeds; where most did not get there it is censored.
    times = np.array([[1.0, INF, INF], [9.0, 9.0, INF]])
    assert convergence.best_rate(times, np.ones((2, 3, 1)), np.zeros((2, 3), bool)) == 1


def test_censored_runs_stay_in_the_median():
    assert convergence.median(np.array([1.0, 2.0, INF, 3.0, INF])) == 3
    assert convergence.median(np.array([1.0, 2.0, INF, INF, INF])) == INF
    assert convergence.median(np.array([1.0, 2.0, INF, INF])) == INF


def test_the_share_converged_by_epoch_never_counts_a_censored_run():
    times = np.array([2.0, 1.0, INF, 2.0])
    assert convergence.share_converged(times) == [(1.0, 0.25), (2.0, 0.75)]
    assert convergence.share_converged(np.array([INF])) == []


def test_the_interval_of_a_median_is_the_bootstraps():
    times = np.array([1.0, 2.0, 3.0, 5.0, 8.0])
    estimate = convergence.median_estimate(times, 20_000, 0)
    # All 5^5 resamples, counted out.
    medians = np.sort([np.median(draw) for draw in itertools.product(times, repeat=5)])
    expected = medians[int(0.025 * len(medians))], medians[int(0.975 * len(medians))]
    assert (estimate.value, estimate.low, estimate.high) == (3.0, *expected)
    estimate = convergence.median_estimate(np.array([1.0, 2.0, 3.0, INF, INF]), 20_000, 0)
    assert (estimate.value, estimate.low, estimate.high) == (3.0, 1.0, INF)


def test_the_ratio_is_paired():
    fast = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    ratio = convergence.ratio_estimate(3 * fast, fast, 100.0, 2000, 0)
    assert ratio == (3.0, 3.0, 3.0, False)  # seed by seed there is no doubt of it


def test_a_censored_median_bounds_the_ratio():
    fast = np.array([2.0, 2.0, 2.0, 2.0, 2.0])
    never = np.full(5, INF)
    assert convergence.ratio_estimate(never, fast, 30.0, 2000, 0) == (15.0, 15.0, INF, True)
    some = np.array([10.0, 10.0, 10.0, INF, INF])
    ratio = convergence.ratio_estimate(some, fast, 30.0, 2000, 0)
    assert ratio == (5.0, 5.0, INF, False)
    # Resamples in which neither got there allow any ratio.
    ratio = convergence.ratio_estimate(some, some, 30.0, 2000, 0)
    assert ratio.value == pytest.approx(1.0)
    assert (ratio.low, ratio.high) == (0.0, INF)
