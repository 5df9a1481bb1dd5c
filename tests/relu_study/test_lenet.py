import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vtl.relu_study import activations
from vtl.relu_study.lenet import LeNet, PatchConvolution, max_pool
from vtl.relu_study.mlp import Perceptron
from vtl.training import fit_networks


def num_parameters(model, shape):
    images = jnp.zeros((1, *shape))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), images))["params"]
    return sum(x.size for x in jax.tree.leaves(params))


def test_the_networks_are_those_of_the_lab():
    # 784-100-10, and 16 5x5, 32 5x5, dense 100, dense 10 with the biases.
    assert num_parameters(Perceptron("relu", "suited"), (28, 28)) == 785 * 100 + 101 * 10
    expected = 26 * 16 + (25 * 16 + 1) * 32 + (4 * 4 * 32 + 1) * 100 + 101 * 10
    assert num_parameters(LeNet("relu", "relu", "suited"), (28, 28)) == expected


@pytest.mark.parametrize(("kernel_size", "padding", "depth"), [(5, 0, 1), (5, 0, 16), (3, 1, 3)])
def test_patches_times_a_matrix_are_a_convolution(kernel_size, padding, depth):
    x = jax.random.normal(jax.random.key(0), (2, 12, 10, depth))
    conv = nn.Conv(6, (kernel_size, kernel_size), padding=padding)
    ours = PatchConvolution(6, kernel_size, padding, nn.initializers.he_normal())
    params = conv.init(jax.random.key(1), x)
    params = jax.tree.map(lambda p: p + 0.1, params)  # a bias that shows
    shapes = jax.tree.map(jnp.shape, ours.init(jax.random.key(1), x))
    assert shapes == jax.tree.map(jnp.shape, params)
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(ours.apply(params, x), conv.apply(params, x), atol=2e-5)

        def loss(params, layer):
            return jnp.sum(jnp.sin(layer.apply(params, x)))

        grad = jax.jit(jax.grad(loss), static_argnums=1)
        grads, expected = (grad(params, layer) for layer in (ours, conv))
    for grad, reference in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(grad, reference, atol=1e-3)


def test_the_pool_is_a_max_pool():
    x = jax.random.normal(jax.random.key(0), (2, 8, 6, 3))
    np.testing.assert_array_equal(max_pool(x), nn.max_pool(x, (2, 2), (2, 2)))
    grads = [
        jax.grad(lambda x, pool=pool: jnp.sum(pool(x) ** 2))(x)
        for pool in (max_pool, lambda x: nn.max_pool(x, (2, 2), (2, 2)))
    ]
    np.testing.assert_allclose(*grads, rtol=1e-6)


def test_the_labs_network_keeps_its_dense_sigmoid():
    model = LeNet("relu", "sigmoid", "glorot_uniform")
    images = jax.random.uniform(jax.random.key(1), (4, 28, 28))
    variables = model.init(jax.random.key(0), images)
    logits, hidden = model.apply(variables, images)
    assert logits.shape == (4, 10)
    shapes = {name: x.shape for name, x in hidden.items()}
    assert shapes == {"conv1": (4, 24, 24, 16), "conv2": (4, 8, 8, 32), "dense1": (4, 100)}
    assert model.hidden_activations == {"conv1": "relu", "conv2": "relu", "dense1": "sigmoid"}
    assert float(hidden["conv2"].min()) == 0
    assert 0 < float(hidden["dense1"].min()) < float(hidden["dense1"].max()) < 1


def test_eight_pixels():
    model = LeNet("tanh", "tanh", "suited", kernel_size=3, padding=1)
    logits, hidden = model.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8)))[0]
    assert logits.shape == (2, 10)
    assert hidden["conv2"].shape == (2, 4, 4, 32)


@pytest.mark.parametrize("name", activations.NAMES)
def test_an_activation_is_flaxs_and_takes_each_number_by_itself(name):
    x = jnp.linspace(-3, 3, 24).reshape(2, 3, 4)
    function = activations.function(name)
    one_by_one = jnp.stack([function(value) for value in x.ravel()]).reshape(x.shape)
    np.testing.assert_allclose(function(x), one_by_one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("activation", "variance"),
    [("tanh", 2 / 300), ("sigmoid", 16 * 2 / 300), ("relu", 2 / 200), ("selu", 1 / 200)],
)
def test_suited_initialisation(activation, variance):
    kernel = activations.suited(activation)(jax.random.key(0), (200, 100))
    assert float(jnp.var(kernel)) == pytest.approx(variance, rel=0.05)


def test_saturated_is_the_outer_twentieth_of_the_range():
    inputs = jnp.array([-3.0, -2.9, 0.0, 2.9, 3.0])
    expected = [True, False, False, False, True]  # sigmoid(2.944) is 0.95
    assert fit_networks.is_saturated("sigmoid", nn.sigmoid(inputs)).tolist() == expected
    assert fit_networks.is_saturated("tanh", jnp.tanh(inputs / 2)).tolist() == expected
