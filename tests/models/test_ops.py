"""The fast operations against flax's and lax's, with their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from vtl.models import depthwise
from vtl.models.ops import (
    PADDINGS,
    convolve,
    convolve_blocks,
    dense_product,
    max_pool,
    relu,
    relu6,
    scaled,
)


def with_gradients(function, gradient, *operands):
    """The output, and the operands' gradients for one of the output, compiled as one program."""

    @jax.jit
    def run(gradient, *operands):
        output, pullback = jax.vjp(function, *operands)
        return output, *pullback(gradient)

    return run(gradient, *operands)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (7, 8), (9, 9), (12, 10)])
def test_the_pool_is_a_max_pool_with_its_gradient(size, dtype):
    """After a ReLU: windows may be all zero, and then the first zero takes the gradient."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(np.maximum(rng.normal(size=(2, *size, 3)), 0), dtype)
    half = tuple(-(-side // 2) for side in size)
    gradient = jnp.asarray(rng.integers(-8, 8, (2, *half, 3)), dtype)
    of_flax = functools.partial(
        nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1))
    )
    got, want = (with_gradients(pool, gradient, x) for pool in (max_pool, of_flax))
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.parametrize("size", [1, 3])
def test_a_scaled_kernel_is_a_product_with_its_gradients(size):
    rng = np.random.default_rng(0)
    kernel, gradient = (
        jnp.asarray(rng.normal(size=(size, size, 5, 7)), jnp.float32) for _ in range(2)
    )
    multiplier = jnp.asarray(rng.normal(size=7), jnp.float32)
    got, want = (
        with_gradients(function, gradient, kernel, multiplier)
        for function in (scaled, jnp.multiply)
    )
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(scaled(kernel, 1.0), kernel)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_relu_is_flaxs_with_its_gradient(dtype):
    x = jnp.asarray([-np.inf, -3, -1e-30, -0.0, 0.0, 1e-30, 2, np.inf, np.nan], dtype)
    gradient = jnp.arange(1, 10, dtype=dtype)
    want, want_gradient = jax.vjp(nn.relu, x)
    got, got_gradient = jax.vjp(relu, x)
    assert got.dtype == dtype
    np.testing.assert_array_equal(np.float32(got), np.float32(want))
    np.testing.assert_array_equal(got_gradient(gradient)[0], want_gradient(gradient)[0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_relu6_is_clipped_with_torchs_gradient(dtype):
    """Torch's gradient at 0 and at 6 is 0; that of `jnp.clip` is a half."""
    x = jnp.asarray([-np.inf, -3, -0.0, 0.0, 1e-30, 2, 5.75, 6, 7, np.inf, np.nan], dtype)
    gradient = jnp.arange(1, 12, dtype=dtype)
    got, pullback = jax.vjp(relu6, x)
    assert got.dtype == dtype
    np.testing.assert_array_equal(np.float32(got), np.clip(np.float32(x), 0, 6))
    inside = [False, False, False, False, True, True, True, False, False, False, False]
    np.testing.assert_array_equal(pullback(gradient)[0], jnp.where(np.array(inside), gradient, 0))


def in_float32(size, stride, image_size, dtype, padding="torch", groups=1, channels=3):
    """Operands and a gradient in `dtype`, and XLA's output and gradients for them in float32."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *image_size, channels)), dtype)
    features = 4 if groups == 1 else channels
    kernel = jnp.asarray(rng.normal(size=(size, size, channels // groups, features)), dtype)
    pad = size // 2

    def reference(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "SAME" if padding == "same" else [(pad, pad)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
            precision="highest",
        )

    output = jax.eval_shape(reference, x, kernel)
    gradient = jnp.asarray(rng.integers(-8, 8, output.shape), dtype)
    operands = (each.astype(jnp.float32) for each in (gradient, x, kernel))
    return (gradient, x, kernel), with_gradients(reference, *operands)


def check_close(got, want, dtype, of=None, epsilons=8):
    """All are in `dtype`, and as near as numbers of the dtype `of`, or of the same, can be."""
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == dtype
        assert mine.shape == theirs.shape
        error = jnp.abs(mine.astype(jnp.float32) - theirs).max() / jnp.abs(theirs).max()
        assert error <= epsilons * jnp.finfo(of or dtype).eps


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("channels", "features"), [(16, 5), (5, 16)])
def test_a_dense_layer_is_flaxs_with_its_gradients(channels, features, dtype):
    rng = np.random.default_rng(0)
    x, gradient = (
        jnp.asarray(rng.normal(size=(2, 7, width)), dtype) for width in (channels, features)
    )
    layer = functools.partial(nn.Dense, features, dtype=dtype)
    params = layer().init(jax.random.key(0), x)
    got, want = (
        with_gradients(made.apply, gradient, params, x)
        for made in (layer(dot_general=dense_product), layer())
    )
    check_close(jax.tree.leaves(got[::2]), jax.tree.leaves(want[::2]), dtype)
    check_close(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), jnp.float32, of=dtype)


each_image_and_dtype = pytest.mark.parametrize(
    ("image_size", "dtype"),
    [
        ((1, 1), jnp.float32),
        ((7, 8), jnp.float32),
        ((7, 8), jnp.bfloat16),
        pytest.param((12, 9), jnp.float32, marks=pytest.mark.full),
        pytest.param((1, 1), jnp.bfloat16, marks=pytest.mark.full),
        pytest.param((12, 9), jnp.bfloat16, marks=pytest.mark.full),
    ],
)


@each_image_and_dtype
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_a_convolution_is_xlas_with_its_gradients(size, stride, channels, image_size, dtype):
    """A photo's few channels are convolved in other ways than a stage's."""
    given, want = in_float32(size, stride, image_size, dtype, channels=channels)
    got = with_gradients(lambda x, kernel: convolve(x, kernel, stride), *given)
    check_close(got, want, dtype)


@each_image_and_dtype
@pytest.mark.parametrize(("size", "channels"), [(3, 3), (3, 16), (7, 3)])
def test_a_convolution_may_pad_as_tensorflow(size, channels, image_size, dtype):
    given, want = in_float32(size, 2, image_size, dtype, "same", channels=channels)
    got = with_gradients(lambda x, kernel: convolve(x, kernel, 2, "same"), *given)
    check_close(got, want, dtype)


@each_image_and_dtype
@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [
        (3, 1, "torch"),
        (3, 2, "same"),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in ((5, 1, "same"), (3, 2, "torch"), *((5, 2, p) for p in PADDINGS))
        ),
    ],
)
def test_a_depthwise_convolution_is_xlas_with_its_gradients(
    size, stride, padding, image_size, dtype
):
    given, want = in_float32(size, stride, image_size, dtype, padding, groups=3)
    got = with_gradients(lambda x, kernel: depthwise.convolve(x, kernel, stride, padding), *given)
    check_close(got, want, dtype)


@each_image_and_dtype
@pytest.mark.parametrize("size", [3, 5, 7])
def test_a_convolution_of_blocks_is_one_of_stride_2(size, image_size, dtype):
    given, want = in_float32(size, 2, image_size, dtype)
    check_close(with_gradients(convolve_blocks, *given), want, dtype)
