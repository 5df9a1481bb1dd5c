import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from vtl.errors import UserError
from vtl.training import losses as module
from vtl.training.losses import (
    NAMES,
    SOFTMAX,
    balanced_weights,
    class_weights_of,
    label_weights,
    loss_of,
    objective,
    sigmoid_bce_mean,
)


def reference(logits, labels, label_mask):
    """-y log(sigmoid(z)) - (1 - y) log(1 - sigmoid(z)) in float64, averaged over what counts."""
    z, y, label_mask = (np.asarray(a, np.float64) for a in (logits, labels, label_mask))
    losses = y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z)
    return (losses * label_mask).sum() / label_mask.sum()


def problem(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 5, (7, 4)).astype(np.float32)
    labels = rng.integers(0, 2, (7, 4)).astype(np.float32)
    label_mask = rng.integers(0, 2, (7, 4)).astype(np.float32)
    return logits, labels, label_mask


def test_by_hand():
    loss = sigmoid_bce_mean(jnp.zeros((2, 3)), jnp.eye(2, 3), jnp.ones((2, 3)))
    assert float(loss) == pytest.approx(np.log(2), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_formula_in_float64(seed):
    logits, labels, label_mask = problem(seed)
    assert float(sigmoid_bce_mean(logits, labels, label_mask)) == pytest.approx(
        reference(logits, labels, label_mask), rel=1e-6
    )


@pytest.mark.parity
def test_equals_torch():
    torch = pytest.importorskip("torch")
    logits, labels, label_mask = problem(0)
    theirs = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        theirs, torch.tensor(labels), weight=torch.tensor(label_mask), reduction="sum"
    ) / float(label_mask.sum())
    loss.backward()
    ours, grad = jax.value_and_grad(sigmoid_bce_mean)(logits, labels, label_mask)
    assert float(ours) == pytest.approx(loss.item(), rel=1e-6)
    np.testing.assert_allclose(grad, theirs.grad.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("logit", "label", "loss", "slope"),
    [(100.0, 1, 0.0, 0.0), (100.0, 0, 100.0, 1.0), (-100.0, 1, 100.0, -1.0), (-100.0, 0, 0.0, 0.0)],
)
def test_extreme_logits(logit, label, loss, slope):
    ours, grad = jax.value_and_grad(sigmoid_bce_mean)(
        jnp.full((1, 1), logit), jnp.full((1, 1), float(label)), jnp.ones((1, 1))
    )
    assert float(ours) == pytest.approx(loss, abs=1e-30)
    assert grad.item() == pytest.approx(slope, abs=1e-30)


def test_labels_that_do_not_count_change_neither_the_sum_nor_the_divisor():
    logits, labels, label_mask = problem(1)
    loss, grad = jax.value_and_grad(sigmoid_bce_mean)(logits, labels, label_mask)
    labels = np.where(label_mask, labels, 1 - labels)
    logits = np.where(label_mask, logits, 50).astype(np.float32)
    other_loss, other_grad = jax.value_and_grad(sigmoid_bce_mean)(logits, labels, label_mask)
    assert float(loss) == float(other_loss)
    assert np.array_equal(grad, other_grad)
    assert (np.asarray(grad)[label_mask == 0] == 0).all()
    assert (np.asarray(grad)[label_mask == 1] != 0).all()


def test_no_label_that_counts_is_no_loss_and_no_gradient():
    logits, labels, label_mask = problem(2)
    loss, grad = jax.value_and_grad(sigmoid_bce_mean)(logits, labels, np.zeros_like(label_mask))
    assert float(loss) == 0
    assert np.array_equal(grad, np.zeros_like(logits))


def test_softmax_is_the_formula_in_float64():
    logits, _, label_mask = problem(0)
    classes = np.where(np.arange(7) < 3, logits.argmax(axis=1), 0)
    labels = np.eye(4, dtype=np.float32)[classes]
    z = logits.astype(np.float64)
    expected = np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(7), classes])
    assert float(SOFTMAX.loss(logits, labels, label_mask)) == pytest.approx(expected, rel=1e-6)
    right = np.mean(z.argmax(axis=1) == classes)
    assert 3 / 7 <= right < 1
    assert float(SOFTMAX.accuracy(logits, labels, label_mask)) == pytest.approx(right)


def test_focal_is_its_formula():
    logits, labels, label_mask = problem(0)
    z, y = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    p = 1 / (1 + np.exp(-z))
    of_truth = np.where(y == 1, p, 1 - p)
    by_label = -((1 - of_truth) ** 2) * np.log(of_truth)
    expected = (by_label * label_mask).sum() / label_mask.sum()
    loss = objective("focal").loss(logits, labels, label_mask)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def asymmetric_by_hand(z, y):
    """Equations 6 and 7 of Ridnik et al. 2021, with the parameters of the authors' code."""
    p = 1 / (1 + np.exp(-z))
    shifted = np.maximum(p - 0.05, 0)
    positive, negative = (1 - p) * np.log(p), shifted**4 * np.log(1 - shifted)
    return -np.where(y == 1, positive, negative)


def test_asymmetric_is_the_papers_formula():
    logits, labels, label_mask = problem(0)
    by_label = asymmetric_by_hand(logits.astype(np.float64), labels)
    expected = (by_label * label_mask).sum() / label_mask.sum()
    loss = objective("asymmetric").loss(logits, labels, label_mask)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parity
def test_asymmetric_has_the_gradients_of_the_formula_in_torch():
    torch = pytest.importorskip("torch")
    logits, labels, label_mask = problem(1)
    z, y = torch.tensor(logits, requires_grad=True), torch.tensor(labels)
    p = torch.sigmoid(z)
    shifted = (p - 0.05).clamp(min=0)
    by_label = -torch.where(y == 1, (1 - p) * p.log(), shifted**4 * (1 - shifted).log())
    ((by_label * torch.tensor(label_mask)).sum() / float(label_mask.sum())).backward()
    grad = jax.grad(objective("asymmetric").loss)(logits, labels, label_mask)
    np.testing.assert_allclose(grad, z.grad.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["focal", "asymmetric"])
def test_saturated_logits_have_finite_gradients(name):
    logits = jnp.array([[-200.0, -50.0, 0.0, 50.0, 200.0]])
    for label in (0.0, 1.0):
        labels = jnp.full_like(logits, label)
        loss, grad = jax.value_and_grad(objective(name).loss)(logits, labels, labels + 1)
        assert np.isfinite(loss)
        assert np.isfinite(grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_one_change_nothing(name):
    logits, labels, label_mask = problem(2)
    if name == "softmax_ce":
        labels = np.eye(4, dtype=np.float32)[np.arange(7) % 4]
    weighted = objective(name, np.ones((2, 4), np.float32))
    plain = objective(name)
    assert float(weighted.loss(logits, labels, label_mask)) == pytest.approx(
        float(plain.loss(logits, labels, label_mask)), rel=1e-6
    )


def test_balanced_weights_are_scikit_learns():
    rng = np.random.default_rng(0)
    classes = rng.choice(4, 100, p=[0.5, 0.3, 0.15, 0.05])
    positives = np.bincount(classes, minlength=4)
    ours = balanced_weights(positives, 100 - positives, one_label_each=True)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=classes)
    np.testing.assert_allclose(ours[1], expected, rtol=1e-6)
    ours = balanced_weights(positives, 100 - positives, one_label_each=False)
    for column in range(4):
        expected = compute_class_weight("balanced", classes=np.arange(2), y=(classes == column) * 1)
        np.testing.assert_allclose(ours[:, column], expected, rtol=1e-6)
    assert np.all(balanced_weights(np.array([0]), np.array([5]), one_label_each=False)[1] == 1)


def test_weighted_losses_are_those_of_repeated_images():
    logits, labels, _ = problem(3)
    labels = np.eye(4, dtype=np.float32)[[0, 0, 0, 0, 1, 2, 3]]
    weights = np.stack([np.zeros(4), [1, 4, 4, 4]]).astype(np.float32)
    rows = np.array([0, 1, 2, 3, *([4] * 4), *([5] * 4), *([6] * 4)])
    repeated = objective("softmax_ce").loss(logits[rows], labels[rows], None) * 16 / 7
    weighted = objective("softmax_ce", weights).loss(logits, labels, None)
    assert float(weighted) == pytest.approx(float(repeated), rel=1e-5)


def test_an_empty_name_goes_by_the_data():
    assert loss_of("", one_label_each=True) == "softmax_ce"
    assert loss_of("", one_label_each=False) == "sigmoid_bce"
    assert loss_of("focal", one_label_each=True) == "focal"
    with pytest.raises(UserError, match="loss=softmax_ce is for photos with one label each"):
        loss_of("softmax_ce", one_label_each=False)


def test_class_weights_go_by_what_counts_however_many_rows_are_read_at_once(monkeypatch):
    _, labels, label_mask = problem(0)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 3)
    assert class_weights_of("none", "focal", labels, label_mask) is None
    found = class_weights_of("balanced", "focal", labels, label_mask)
    for column in range(4):
        counted = labels[label_mask[:, column] == 1, column]
        expected = np.ones(2)
        expected[np.unique(counted).astype(int)] = compute_class_weight(
            "balanced", classes=np.unique(counted), y=counted
        )
        if len(set(counted)) == 1:
            expected = np.where(np.arange(2) == counted[0], 0.5, 1)
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-6)


def test_label_weights_make_the_weighted_loss():
    logits, labels, label_mask = problem(1)
    weights = class_weights_of("balanced", "sigmoid_bce", labels, label_mask)
    of_labels = label_weights(labels, label_mask, weights)
    by_weights = sigmoid_bce_mean(logits, labels, of_labels) * of_labels.sum() / label_mask.sum()
    loss = objective("sigmoid_bce", weights).loss(logits, labels, label_mask)
    assert float(by_weights) == pytest.approx(float(loss), rel=1e-6)
    assert label_weights(labels, label_mask, None) is label_mask
