import numpy as np
import pytest
from sklearn.svm import LinearSVC

from vtl.training import fit_svm


def problem(num_rows=40, num_features=60, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num_rows, num_features))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = (rows[:, :3] + 0.05 * rng.normal(size=(num_rows, 3)) > 0.1).astype(np.uint8)
    return rows.astype(np.float32), labels


def reference(rows, is_positive, cost):
    """As VISSL calls it, on the features as they are."""
    machine = LinearSVC(
        C=cost, class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, tol=1e-4, random_state=0
    )
    return machine.fit(rows.astype(np.float64), np.where(is_positive, 1, -1))


@pytest.mark.parametrize("num_features", [60, 10])  # more than rows, and fewer
@pytest.mark.parametrize("cost", [0.01, 1.0, 10.0])
def test_each_class_is_scikit_learns_on_the_photos_that_count(num_features, cost):
    rows, labels = problem(num_features=num_features)
    label_mask = np.ones_like(labels)
    label_mask[:7, 1] = 0
    costs = np.array([cost, cost / 2, cost])
    head, num_unconverged = fit_svm.fit_each(
        rows, labels, label_mask, costs, positive_weight=2.0, seed=0
    )
    assert num_unconverged == 0
    for column, own_cost in enumerate(costs):
        counts = label_mask[:, column] == 1
        theirs = reference(rows[counts], labels[counts, column] == 1, own_cost)
        ours = rows @ np.asarray(head.kernel)[:, column] + np.asarray(head.bias)[column]
        np.testing.assert_allclose(ours, theirs.decision_function(rows), atol=2e-5)


def test_compact_rows_have_the_same_products():
    rows, _ = problem()
    short, axes = fit_svm.compact(rows)
    assert short.shape == (40, 40)
    np.testing.assert_allclose(short @ short.T, rows.astype(np.float64) @ rows.T, atol=1e-6)
    np.testing.assert_allclose(short @ axes.T, rows, atol=1e-6)


@pytest.mark.parametrize(("positives", "bias"), [(0, np.log(0.5 / 5.5)), (5, np.log(5.5 / 0.5))])
def test_with_one_side_only_the_bias_is_the_log_odds(positives, bias):
    is_positive = np.arange(5) < positives
    machine = fit_svm.fit(np.eye(5), is_positive, 1.0, positive_weight=2.0, seed=0)
    assert not machine.weights.any()
    assert machine.bias == pytest.approx(bias)


def test_what_is_stopped_early_is_counted(monkeypatch):
    monkeypatch.setattr(fit_svm, "MAX_ITERATIONS", 2)
    rows, labels = problem()
    costs = np.full(3, 100.0)
    options = {"positive_weight": 2.0, "seed": 0}
    _, num_unconverged = fit_svm.fit_each(rows, labels, np.ones_like(labels), costs, **options)
    assert num_unconverged == 3
