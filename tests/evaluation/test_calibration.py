"""Calibration by class, against plain optimisation and scikit-learn."""

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import brier_score_loss

from vtl.evaluation import calibration, resampling


def drawn(num_photos, slope, intercept, seed=0):
    """Logits [N, 1] of which sigmoid(slope * x + intercept) is the probability, and labels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, (num_photos, 1))
    return x, (rng.random(x.shape) < expit(slope * x + intercept)).astype(np.uint8)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.3, -1.0), (3.0, 2.0)])
def test_many_photos_tell_slope_and_intercept(slope, intercept):
    x, labels = drawn(20_000, slope, intercept)
    found = calibration.platt(x, labels, np.ones_like(labels))
    np.testing.assert_allclose(np.ravel(found), [slope, intercept], atol=0.1)


def test_it_is_the_minimum_of_what_it_says_it_minimises():
    x, labels = drawn(60, 0.5, -1.0)
    positives, negatives = labels.sum(), (1 - labels).sum()
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(point):
        p = expit(np.exp(point[0]) * x + point[1])
        entropy = -np.sum(targets * np.log(p) + (1 - targets) * np.log(1 - p))
        return entropy + np.sum(calibration.PRIOR / 2 * np.square(point))

    expected = minimize(loss, (0.0, 0.0), method="Nelder-Mead", options={"xatol": 1e-8}).x
    slopes, intercepts = calibration.platt(x, labels, np.ones_like(labels))
    np.testing.assert_allclose([np.log(slopes[0]), intercepts[0]], expected, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 5e3])
@pytest.mark.parametrize("shift", [0.0, 50.0, -1e3])
@pytest.mark.parametrize("kind", ["drawn", "against the ranking", "told apart", "few", "constant"])
def test_it_is_no_worse_than_what_scipy_finds(kind, shift, scale):
    x, labels = drawn(6 if kind == "few" else 300, 1.0, -0.5)
    labels[:2] = [[0], [1]]
    if kind == "against the ranking":
        labels = 1 - labels
    elif kind == "told apart":
        labels = (x > 0.5).astype(np.uint8)
    x = np.full_like(x, 3.0) if kind == "constant" else x * scale + shift
    targets = calibration._targets(labels[:, 0] == 1)

    def loss(point):
        z = np.exp(point[0]) * x[:, 0] + point[1]
        return np.sum(np.logaddexp(0, z) - targets * z) + calibration.PRIOR @ point**2 / 2

    expected = minimize(loss, (0.0, 0.0), bounds=((-4.6, 4.6), (None, None))).fun
    slopes, intercepts = calibration.platt(x, labels, np.ones_like(labels))
    assert loss(np.array([np.log(slopes[0]), intercepts[0]])) <= expected * (1 + 1e-9)


@pytest.mark.parametrize("value", [0, 1])
def test_a_class_without_both_kinds_stays_as_it_is(value):
    x, labels = drawn(50, 0.5, 0.0)
    slopes, intercepts = calibration.platt(x, np.full_like(labels, value), np.ones_like(labels))
    assert (slopes[0], intercepts[0]) == (1, 0)


def test_unknown_labels_do_not_count():
    x, labels = drawn(400, 0.5, 1.0)
    known = np.ones_like(labels)
    known[200:] = 0
    found = calibration.platt(x, labels, known)
    other = calibration.platt(x, np.where(known, labels, 1 - labels), known)
    few = calibration.platt(x[:200], labels[:200], known[:200])
    np.testing.assert_array_equal(np.ravel(found), np.ravel(other))
    np.testing.assert_allclose(np.ravel(found), np.ravel(few), rtol=1e-6)


def test_labels_against_the_ranking_do_not_turn_it_around():
    x, labels = drawn(500, 3.0, 0.0)
    slopes, _ = calibration.platt(x, 1 - labels, np.ones_like(labels))
    assert 0 < slopes[0] < 0.05


def test_one_step_is_near_to_fitting_each_resample():
    x, labels = drawn(300, 0.6, -0.5)
    rng = np.random.default_rng(1)
    counts = np.stack([np.bincount(rng.integers(300, size=300), minlength=300) for _ in range(60)])
    slopes, intercepts = calibration.platt(x, labels, np.ones_like(labels))
    stepped = calibration.resampled(x, labels, np.ones_like(labels), slopes, intercepts, counts.T)
    fitted = [
        np.ravel(calibration.platt(x[rows], labels[rows], np.ones_like(labels[rows])))
        for rows in (np.repeat(np.arange(300), count) for count in counts)
    ]
    for (one,), other in zip(stepped, np.transpose(fitted), strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.98
        assert one.std() == pytest.approx(other.std(), rel=0.15)


def test_classes_together_are_as_one_class_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(0, 2, (200, 5)), rng.integers(0, 2, (200, 5))
    x[:, 4] *= np.where(labels[:, 4], -1e4, 1e4)  # its slope ends at a bound
    known, counts = rng.integers(0, 2, x.shape), rng.poisson(1, (200, 30)).astype(np.uint8)
    fit = calibration.platt(x, labels, known)
    monkeypatch.setattr(resampling, "MAX_COUNTS_PER_CHUNK", 5000)  # several blocks of photos
    slopes, intercepts = calibration.resampled(x, labels, known, *fit, counts)
    totals = calibration.expected_positives(x, known, slopes, intercepts, counts)
    for c in range(5):
        rows = known[:, c] == 1
        given, positive, weights = x[rows, c], labels[rows, c], counts[rows]
        num_positives, num_negatives = positive.sum(), (1 - positive).sum()
        targets = np.where(
            positive, (num_positives + 1) / (num_positives + 2), 1 / (num_negatives + 2)
        )
        scaled = fit[0][c] * given
        p = expit(scaled + fit[1][c])
        by_parameter = np.stack([scaled, np.ones_like(scaled)])
        point = np.array([np.log(fit[0][c]), fit[1][c]])
        prior = calibration.PRIOR
        gradients = (by_parameter * (p - targets)) @ weights + (prior * point)[:, None]
        hessian = (by_parameter * p * (1 - p)) @ by_parameter.T + np.diag(prior)
        steps = np.linalg.solve(hessian, gradients)
        if c == 4:
            steps = np.stack([0 * gradients[1], gradients[1] / hessian[1, 1]])
        log_slopes = np.clip(point[0] - steps[0], -4.6, 4.6)
        np.testing.assert_allclose(slopes[c], np.exp(log_slopes), rtol=1e-9)
        np.testing.assert_allclose(intercepts[c], point[1] - steps[1], rtol=1e-9)
        expected = (expit(given[:, None] * slopes[c] + intercepts[c]) * weights).sum(axis=0)
        np.testing.assert_allclose(totals[c], expected, rtol=1e-12)


def test_a_temperature_is_found_again():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, (5000, 4))
    truth = [rng.choice(4, p=p) for p in softmax(x / 2.5, axis=1)]
    labels = np.eye(4, dtype=np.uint8)[truth]
    assert calibration.temperature(x, labels) == pytest.approx(2.5, rel=0.05)
    assert calibration.temperature(log_softmax(x, axis=1), labels) == pytest.approx(2.5, rel=0.05)


def test_brier_is_scikit_learns():
    x, labels = drawn(300, 1.0, 0.0)
    p = expit(x)
    expected = brier_score_loss(labels[:, 0], p[:, 0])
    assert calibration.brier(p, labels, np.ones_like(labels)) == pytest.approx(expected)


def test_reliability_is_the_distance_of_what_is_said_from_what_is():
    p = np.repeat([0.25, 0.65], 100)[:, None]
    labels = np.zeros_like(p, np.uint8)
    labels[:40] = 1  # 40 % where 25 % are said
    labels[100:165] = 1  # 65 %, as is said
    expected = 0.5 * 0.15**2
    assert calibration.reliability(p, labels, np.ones_like(labels)) == pytest.approx(expected)
    known = np.ones_like(labels)
    known[:100] = 0
    assert calibration.reliability(p, labels, known) == pytest.approx(0, abs=1e-12)


def test_logits_that_are_all_too_high_are_brought_down():
    x, labels = drawn(300, 2.0, 0.0)
    shifted = x + 4
    slopes, intercepts = calibration.platt(shifted, labels, np.ones_like(labels))
    p = expit(slopes * shifted + intercepts)
    assert p.mean() == pytest.approx(labels.mean(), abs=0.01)
    assert slopes[0] == pytest.approx(2, rel=0.25)


def test_of_nothing_that_counts_there_is_nothing_to_say():
    x, labels = drawn(10, 1.0, 0.0)
    for score in (calibration.brier, calibration.reliability):
        assert score(expit(x), labels, np.zeros_like(labels)) is None


def test_small_blocks_of_photos_change_no_figure(monkeypatch):
    rng = np.random.default_rng(0)
    x, truth = rng.normal(0, 2, (300, 4)).astype(np.float32), rng.integers(0, 4, 300)
    labels, known = np.eye(4, dtype=np.uint8)[truth], rng.integers(0, 2, (300, 4))
    monkeypatch.setattr(resampling, "MAX_COUNTS_PER_CHUNK", 50)
    p = softmax(x, axis=1)
    squares, bins = (p - labels)[known == 1] ** 2, np.minimum((p * 10).astype(int), 9)
    assert calibration.brier(p, labels, known) == pytest.approx(squares.mean(), rel=1e-6)
    chosen = [(bins == b) & (known == 1) for b in range(10)]
    gaps = [of.sum() * (p[of].mean() - labels[of].mean()) ** 2 for of in chosen if of.any()]
    expected = sum(gaps) / known.sum()
    assert calibration.reliability(p, labels, known) == pytest.approx(expected, rel=1e-5)

    def loss(log_t):
        scaled = log_softmax(x.astype(float) / np.exp(log_t), axis=1)
        return log_t**2 / 2 - scaled[np.arange(300), truth].sum()

    expected = minimize_scalar(loss, bounds=(-4.6, 4.6), method="bounded").x
    assert calibration.temperature(x, labels) == pytest.approx(np.exp(expected), rel=1e-9)
