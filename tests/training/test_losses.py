import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtl.training.losses import SOFTMAX, sigmoid_bce_mean


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
    assert float(SOFTMAX.accuracy(logits, labels)) == pytest.approx(right)
