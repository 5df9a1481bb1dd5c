"""Winograd's 3x3 convolution against lax's, with its gradients, and where it is used."""

import ast
import math
import re
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from tests.devices import environment
from tests.models.test_ops import check_close, in_float32, with_gradients
from vtl.models import ops, winograd

TOLERANCE = 64
"""Times float32's epsilon; the way of `lax` keeps within 8."""


@jax.custom_vjp
def by_winograd(x, kernel):
    return winograd.convolve(x, kernel)


by_winograd.defvjp(
    lambda x, kernel: (winograd.convolve(x, kernel), (x, kernel)),
    lambda saved, gradient: (
        winograd.input_gradient(saved[1], gradient),
        winograd.kernel_gradient(saved[0], gradient),
    ),
)


@pytest.mark.parametrize("image_size", [(1, 1), (4, 8), (7, 9), (5, 2)])
def test_it_is_laxs_with_its_gradients(image_size):
    operands, want = in_float32(3, 1, image_size, jnp.float32, channels=5)
    check_close(with_gradients(by_winograd, *operands), want, jnp.float32, epsilons=TOLERANCE)


def test_its_gradients_are_the_transposes_that_jax_finds():
    (gradient, x, kernel), _ = in_float32(3, 1, (7, 9), jnp.float32, channels=5)
    got = with_gradients(by_winograd, gradient, x, kernel)
    want = with_gradients(winograd.convolve, gradient, x, kernel)
    check_close(got, want, jnp.float32, epsilons=TOLERANCE)


def operands_of(channels, features=winograd.MIN_CHANNELS, dtype=jnp.float32, batch=8, side=8):
    rng = np.random.default_rng(0)
    images = (batch, side, side)
    shapes = (*images, features), (*images, channels), (3, 3, channels, features)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def test_a_large_convolution_is_winograds_on_a_cpu():
    gradient, x, kernel = operands_of(winograd.MIN_CHANNELS)
    got = with_gradients(lambda x, kernel: ops.convolve(x, kernel, 1), gradient, x, kernel)
    for mine, theirs in zip(got, with_gradients(by_winograd, gradient, x, kernel), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_batch_of_any_size_is_not_known_to_be_large():
    _, x, kernel = operands_of(winograd.MIN_CHANNELS)
    (batch,) = jax.export.symbolic_shape("batch")
    any_size = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    convolve = jax.jit(lambda x: ops.convolve(x, kernel, 1))
    exported = jax.export.export(convolve, platforms=["cpu"])(any_size)
    check_close([exported.call(x)], [convolve(x)], jnp.float32, epsilons=TOLERANCE)


ON_TWO_DEVICES = """
import re
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tests.models.test_winograd import operands_of, winograd, with_gradients
from vtl.models import ops

mesh = Mesh(jax.devices(), ("batch",))
by_batch, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("batch",), ()))
operands = operands_of(winograd.MIN_CHANNELS)
placed = [jax.device_put(*each) for each in zip(operands, (by_batch, by_batch, everywhere))]
run = lambda *operands: with_gradients(lambda x, k: ops.convolve(x, k, 1), *operands)
compiled = jax.jit(run, out_shardings=(by_batch, by_batch, everywhere)).lower(*placed).compile()
print(re.findall(r" = (\\S+) (?:all|collective|reduce-scatter)", compiled.as_text()))
"""


def test_several_devices_exchange_no_more_than_the_kernels_gradient():
    command = [sys.executable, "-c", ON_TWO_DEVICES]
    run = subprocess.run(command, env=environment(2), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (exchanged,) = ast.literal_eval(run.stdout)
    shape = ast.literal_eval(re.match(r"f32(\[[\d,]+\])", exchanged)[1])
    assert math.prod(shape) == 9 * winograd.MIN_CHANNELS**2


@pytest.mark.parametrize(
    ("changed", "stride"),
    [
        ({}, 2),
        ({"channels": winograd.MIN_CHANNELS - 1}, 1),
        ({"features": winograd.MIN_CHANNELS - 1}, 1),
        ({"dtype": jnp.bfloat16}, 1),
        ({"batch": winograd.MIN_TILES // 4 - 1}, 1),
        ({"batch": winograd.MIN_TILES, "side": winograd.TILE}, 1),
    ],
)
def test_what_it_does_not_suit(changed, stride):
    _, x, kernel = operands_of(**{"channels": winograd.MIN_CHANNELS} | changed)
    assert not winograd.is_faster(x, kernel, stride)
