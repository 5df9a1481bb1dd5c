import jax.numpy as jnp
import numpy as np
import pytest
import threadpoolctl
from sklearn.linear_model import LogisticRegression

from vtl.training import fit_linear, losses
from vtl.training.fit_linear import logistic_regression


def problem(seed=0, num_images=60, num_features=10, num_classes=3):
    """Features off centre and correlated, as a ReLU network's are; labels that follow them."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(num_features, num_features)) / np.sqrt(num_features)
    features = np.maximum(rng.normal(0.5, 1, (num_images, num_features)) @ mixing + 0.3, 0)
    kernel = rng.normal(size=(num_features, num_classes))
    logits = (features - features.mean(0)) @ kernel + rng.normal(0, 1, (num_images, num_classes))
    return features.astype(np.float32), (logits > 0.3).astype(np.uint8)


def objective(features, labels, label_mask, l2, kernel, bias):
    """One class's mean cross-entropy over the rows that count plus l2 / 2 |kernel|^2, float64."""
    z = features.astype(np.float64) @ np.asarray(kernel, np.float64) + float(bias)
    by_row = np.logaddexp(0, z) - labels * z
    return by_row[label_mask == 1].mean() + l2 / 2 * np.sum(np.asarray(kernel, np.float64) ** 2)


def sklearn_minimum(features, labels, label_mask, l2):
    rows = label_mask == 1
    reference = LogisticRegression(
        C=1 / (rows.sum() * l2), solver="newton-cholesky", tol=1e-10, max_iter=1000
    )
    reference.fit(features[rows].astype(np.float64), labels[rows])
    return objective(features, labels, label_mask, l2, reference.coef_[0], reference.intercept_[0])


def check_reaches_the_minimum(features, labels, label_mask, l2, rel=1e-4):
    kernel, bias = logistic_regression(features, labels, label_mask, l2)
    assert kernel.shape == (features.shape[1], labels.shape[1])
    assert bias.shape == (labels.shape[1],)
    for c in range(labels.shape[1]):
        args = (features, labels[:, c], label_mask[:, c], l2)
        minimum = sklearn_minimum(*args)
        assert objective(*args, kernel[:, c], bias[c]) <= minimum * (1 + rel), f"class {c}"


def test_decompositions_take_one_thread(monkeypatch):
    rotated, inside = fit_linear._rotated, []

    def watched(features):
        inside.extend(threadpoolctl.threadpool_info())
        return rotated(features)

    monkeypatch.setattr(fit_linear, "_rotated", watched)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        fit_linear.rotate(jnp.eye(3))
    blas = [library for library in inside if library["user_api"] == "blas"]
    assert any("scipy" in library["filepath"] for library in blas)
    assert {library["num_threads"] for library in blas} == {1}


@pytest.mark.parametrize("l2", [1e-4, 1e-3, 1e-2, 0.1, 1.0])
def test_reaches_sklearns_minimum(l2):
    features, labels = problem()
    check_reaches_the_minimum(features, labels, np.ones_like(labels), l2)


def test_more_features_than_images():
    features, labels = problem(1, num_images=40, num_features=100)
    check_reaches_the_minimum(features, labels, np.ones_like(labels), 1e-3)


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_labels_that_do_not_count_are_left_out(l2):
    features, labels = problem(2)
    label_mask = (np.random.default_rng(2).random(labels.shape) < 0.7).astype(np.uint8)
    check_reaches_the_minimum(features, labels, label_mask, l2)
    flipped = np.where(label_mask, labels, 1 - labels)
    for ours, theirs in zip(
        logistic_regression(features, labels, label_mask, l2),
        logistic_regression(features, flipped, label_mask, l2),
        strict=True,
    ):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("l2", [1e-3, 1e-2, 1.0, 10.0])
def test_a_rare_class(l2):
    # The bias is free: its curvature is that of the loss alone, and a rare class has little.
    features, _ = problem(3, num_images=500)
    labels = np.zeros((500, 1), np.uint8)
    labels[[7, 77]] = 1
    check_reaches_the_minimum(features, labels, np.ones_like(labels), l2)


def test_steps_that_would_overshoot_are_shortened():
    # The curvature at the log-odds of a single positive is so small that a whole step of Newton's
    # goes far beyond the minimum, and the next ones diverge.
    rng = np.random.default_rng(10)
    features, labels = rng.normal(size=(400, 5)).astype(np.float32), np.zeros((400, 1), np.uint8)
    labels[rng.choice(400)] = 1
    check_reaches_the_minimum(features, labels, np.ones_like(labels), 1e-6)


def test_a_constant_feature_gets_no_weight():
    features, labels = problem(4)
    features[:, 3] = 1000.0
    features[:, 5] = 0.0
    check_reaches_the_minimum(features, labels, np.ones_like(labels), 1e-2)
    kernel, _ = logistic_regression(features, labels, np.ones_like(labels), 1e-2)
    np.testing.assert_allclose(np.asarray(kernel)[[3, 5]], 0, atol=1e-5)


def test_a_shift_of_the_features_goes_into_the_bias():
    features, labels = problem(5)
    label_mask = np.ones_like(labels)
    kernel, bias = logistic_regression(features, labels, label_mask, 1e-2)
    shifted_kernel, shifted_bias = logistic_regression(features + 3, labels, label_mask, 1e-2)
    np.testing.assert_allclose(shifted_kernel, kernel, atol=1e-2)
    np.testing.assert_allclose(
        (features + 3) @ shifted_kernel + shifted_bias, features @ kernel + bias, atol=2e-2
    )


def test_a_class_without_positives_is_improbable_and_harms_no_other():
    features, labels = problem(6)
    label_mask = np.ones_like(labels)
    alone, _ = logistic_regression(features, labels, label_mask, 1e-2)
    labels[:, 2] = 0
    kernel, bias = logistic_regression(features, labels, label_mask, 1e-2)
    assert np.array_equal(kernel[:, 2], np.zeros(10))
    assert float(bias[2]) == pytest.approx(np.log(0.5 / 60.5))
    np.testing.assert_allclose(kernel[:, :2], alone[:, :2], atol=1e-5)


def test_a_class_without_labels_that_count_stays_at_even_odds():
    features, labels = problem(7)
    label_mask = np.ones_like(labels)
    label_mask[:, 1] = 0
    kernel, bias = logistic_regression(features, labels, label_mask, 1e-2)
    assert np.array_equal(kernel[:, 1], np.zeros(10))
    assert float(bias[1]) == 0


def test_one_image():
    features = np.array([[1.0, 2.0]], np.float32)
    kernel, bias = logistic_regression(features, np.array([[1, 0]]), np.ones((1, 2)), 1e-2)
    # The log-odds of one image, with half an image added to each side.
    np.testing.assert_allclose(bias, [np.log(3), -np.log(3)], rtol=1e-6)
    np.testing.assert_array_equal(kernel, np.zeros((2, 2)))


def one_label_problem(seed=0, count=120):
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, count, p=[0.5, 0.3, 0.2])
    features = rng.normal(size=(count, 6)) + 1.2 * rng.normal(size=(3, 6))[truth]
    return features.astype(np.float32), np.eye(3, dtype=np.uint8)[truth], truth


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_softmax_regression_is_scikit_learns(l2):
    features, labels, truth = one_label_problem()
    head = fit_linear.fit_softmax(
        fit_linear.rotate(features), labels, np.ones(len(truth)), l2, tolerance=1e-7
    )
    ours = features @ np.asarray(head.kernel) + np.asarray(head.bias)
    theirs = LogisticRegression(C=1 / (len(truth) * l2), tol=1e-8, max_iter=10_000)
    theirs.fit(features, truth)
    difference = ours - theirs.decision_function(features)
    difference -= difference.mean(axis=1, keepdims=True)
    assert np.abs(difference).max() < 5e-3 * np.abs(ours).max()


def test_images_that_do_not_count_change_nothing():
    features, labels, truth = one_label_problem()
    counts = np.arange(len(truth)) % 4 > 0
    whole = fit_linear.rotate(features)
    one = fit_linear.fit_softmax(whole, labels, counts, 1e-2)
    labels[~counts] = np.eye(3, dtype=np.uint8)[0]
    other = fit_linear.fit_softmax(whole, labels, counts, 1e-2)
    np.testing.assert_array_equal(one.kernel, other.kernel)


@pytest.mark.parametrize("l2", [1e-2, 1e-3])
def test_balanced_weights_are_scikit_learns(l2):
    features, labels = problem(num_images=200)
    every = np.ones_like(labels)
    weights = losses.class_weights_of("balanced", "sigmoid_bce", labels, every)
    kernel, bias = logistic_regression(
        features, labels, losses.label_weights(labels, every, weights), l2, tolerance=1e-8
    )
    for column in range(labels.shape[1]):
        theirs = LogisticRegression(
            C=1 / (200 * l2), class_weight="balanced", solver="newton-cholesky", tol=1e-10
        ).fit(features.astype(np.float64), labels[:, column])
        ours = features @ np.asarray(kernel[:, column]) + float(bias[column])
        np.testing.assert_allclose(ours, theirs.decision_function(features), atol=5e-3)


def test_softmax_regression_with_balanced_weights_is_scikit_learns():
    features, labels, truth = one_label_problem()
    every, l2 = np.ones_like(labels), 1e-2
    weights = losses.class_weights_of("balanced", "softmax_ce", labels, every)
    counts = np.sum(labels * losses.label_weights(labels, every, weights), axis=1)
    head = fit_linear.fit_softmax(fit_linear.rotate(features), labels, counts, l2, tolerance=1e-7)
    ours = features @ np.asarray(head.kernel) + np.asarray(head.bias)
    theirs = LogisticRegression(
        C=1 / (len(truth) * l2), class_weight="balanced", tol=1e-8, max_iter=10_000
    ).fit(features, truth)
    difference = ours - theirs.decision_function(features)
    difference -= difference.mean(axis=1, keepdims=True)
    assert np.abs(difference).max() < 5e-3 * np.abs(ours).max()


def by_torch(torch, name, logits, labels, weights):
    """The mean loss in torch; weights [2, C] of negatives and positives."""
    if name == "softmax_ce":
        losses = torch.nn.functional.cross_entropy(logits, labels.argmax(1), reduction="none")
        return (losses * weights[1][labels.argmax(1)]).mean()
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    p = torch.sigmoid(logits)
    of_labels = {
        "sigmoid_bce": bce,
        "focal": bce * (1 - torch.where(labels > 0, p, 1 - p)) ** 2,
        "asymmetric": -torch.where(
            labels > 0,
            (1 - p) * p.log(),
            (p - 0.05).clamp(min=0) ** 4 * (1 - (p - 0.05).clamp(min=0)).log(),
        ),
    }[name]
    return (of_labels * torch.where(labels > 0, weights[1], weights[0])).mean()


@pytest.mark.parity
@pytest.mark.parametrize("name", losses.NAMES)
@pytest.mark.parametrize("kind", losses.CLASS_WEIGHTS)
def test_sgd_by_every_loss_follows_torch(name, kind):
    torch = pytest.importorskip("torch")
    features, labels, _ = one_label_problem(count=60)
    if name != "softmax_ce":
        features, labels = problem()
    every = np.ones_like(labels)
    weights = losses.class_weights_of(kind, name, labels, every)
    start, order = fit_linear.seeded(features.shape, 3, num_epochs=3, batch_size=8, seed=0)
    head, by_step = fit_linear.sgd(
        features,
        labels,
        every,
        order[None],
        fit_linear.Linear(start.kernel[None], start.bias[None]),
        np.array([0.1], np.float32),
        np.array([0.0], np.float32),
        loss=losses.objective(name, weights).loss,
    )
    kernel = torch.tensor(np.array(start.kernel), requires_grad=True)
    bias = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([kernel, bias], lr=0.1)
    given = torch.ones(2, 3) if weights is None else torch.tensor(weights)
    theirs = []
    for rows in order:
        logits = torch.tensor(features[rows]) @ kernel + bias
        loss = by_torch(torch, name, logits, torch.tensor(labels[rows]).float(), given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        theirs.append(loss.item())
    np.testing.assert_allclose(by_step[0], theirs, rtol=1e-4)
    np.testing.assert_allclose(head.kernel[0], kernel.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(head.bias[0], bias.detach().numpy(), atol=1e-4)
