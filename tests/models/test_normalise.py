"""BatchNorm by the batch against its definition, with its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_ops import check_close, with_gradients
from vtl.models import normalise


@pytest.mark.parametrize("mean", [0, 100])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("way", [normalise.in_one_pass, normalise.in_two_passes])
def test_batch_normalisation_is_its_definition_with_its_gradients(way, dtype, mean):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(mean, size=(4, 5, 6, 3)), dtype)
    gradient = jnp.asarray(rng.integers(-8, 8, x.shape), dtype)
    scale, bias = (jnp.asarray(rng.normal(size=3), jnp.float32) for _ in range(2))
    axes, epsilon = (0, 1, 2), 1e-3

    def definition(x, scale, bias):
        spread = jnp.sqrt(jnp.var(x, axes) + epsilon)
        return (x - jnp.mean(x, axes)) / spread * scale + bias

    x32 = x.astype(jnp.float32)
    want = with_gradients(definition, gradient.astype(jnp.float32), x32, scale, bias)
    got = with_gradients(lambda *of: way(epsilon, *of)[0], gradient, x, scale, bias)
    epsilons = max(16, 4 * mean)
    check_close(got[:2], want[:2], dtype, epsilons=epsilons if dtype == jnp.float32 else 8)
    check_close(got[2:], want[2:], jnp.float32, epsilons=epsilons)
    _, *statistics = way(epsilon, x, scale, bias)
    expected = jnp.mean(x32, axes), jnp.var(x32, axes)
    check_close(statistics, expected, jnp.float32, epsilons=64)


def test_the_statistics_have_no_gradients():
    x, scale, bias = jnp.arange(12.0).reshape(4, 3), jnp.ones(3), jnp.zeros(3)

    def statistics(*operands):
        _, mean, var = normalise.by_batch(*operands, 1e-3)
        return jnp.sum(mean + var)

    np.testing.assert_allclose(statistics(x, scale, bias), x.mean(0).sum() + x.var(0).sum())
    for gradient in jax.grad(statistics, argnums=(0, 1, 2))(x, scale, bias):
        assert not gradient.any()
    for way in (normalise.in_one_pass, normalise.in_two_passes):
        assert not jax.grad(lambda x, way=way: way(1e-3, x, scale, bias)[2].sum())(x).any()
