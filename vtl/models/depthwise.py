"""The depthwise convolution: every channel has a kernel of its own.

It gives the same result as `jax.lax` and is faster on a CPU; experiments/speed/depthwise.py
measures by how much.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from vtl.models import ops


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: str = "torch") -> jax.Array:
    """Each channel by itself: x [B, H, W, C], kernel [K, K, 1, C] -> [B, h, w, C].

    On a CPU XLA's own takes several times as long as a sum of shifted products, and its gradients
    take ten times as long or more.
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(by_products, stride=stride, padding=padding),
        default=functools.partial(ops.convolve_by_xla, stride=stride, padding=padding),
    )


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: str
) -> tuple[jax.Array, ops.Saved]:
    return convolve(x, kernel, stride, padding), (x, kernel)


def _backward(
    stride: int, padding: str, saved: ops.Saved, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    default = functools.partial(ops.convolve_by_xla, stride=stride, padding=padding)
    of_input = functools.partial(input_gradient, like=x, stride=stride, padding=padding)
    of_kernel = functools.partial(
        kernel_gradient, size=kernel.shape[0], stride=stride, padding=padding
    )
    return (
        lax.platform_dependent(
            kernel,
            gradient,
            cpu=of_input,
            default=functools.partial(ops.input_gradient, default, x),
        ),
        lax.platform_dependent(
            x,
            gradient,
            cpu=of_kernel,
            default=functools.partial(ops.kernel_gradient, default, kernel),
        ),
    )


convolve.defvjp(_forward, _backward)


def by_products(x: jax.Array, kernel: jax.Array, *, stride: int, padding: str) -> jax.Array:
    """`convolve` as one loop over the output, which adds up K * K products."""
    size = kernel.shape[0]
    met = _met_by_tap(x, size, stride, padding)
    products = [inputs * kernel[i, j, 0].astype(jnp.float32) for (i, j), inputs in met.items()]
    return functools.reduce(jnp.add, products).astype(x.dtype)


def _met_by_tap(
    x: jax.Array, size: int, stride: int, padding: str
) -> dict[tuple[int, int], jax.Array]:
    """The inputs that each of the kernel's numbers meets, float32 [B, h, w, C], by its place."""
    rows, columns = ops.paddings_of(x, size, stride, padding)
    x = jnp.pad(x, ((0, 0), rows, columns, (0, 0)))
    # Otherwise XLA computes what made x again for each tap.
    x = lax.optimization_barrier(x)
    height, width = ((side - size) // stride * stride + 1 for side in x.shape[1:3])
    return {
        (i, j): x[:, i : i + height : stride, j : j + width : stride].astype(jnp.float32)
        for i in range(size)
        for j in range(size)
    }


def input_gradient(
    kernel: jax.Array, gradient: jax.Array, *, like: jax.Array, stride: int, padding: str
) -> jax.Array:
    """The gradient of `convolve`'s input, in the shape of `like`.

    Input pixels whose places have the same remainder by the stride meet the same taps: each such
    set is a sum of products, and the sets are interleaved.
    """
    size, (batch, height, width, channels) = kernel.shape[0], like.shape
    (above, _), (left, _) = ops.paddings_of(like, size, stride, padding)
    rows, columns = math.ceil(height / stride), math.ceil(width / stride)
    margin = size // 2 + 1
    padded = jnp.pad(gradient, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    padded = lax.optimization_barrier(padded)

    def of_set(row: int, column: int) -> jax.Array:
        total = jnp.zeros((batch, rows, columns, channels), jnp.float32)
        for i in range((row + above) % stride, size, stride):
            for j in range((column + left) % stride, size, stride):
                top = margin + (row + above - i) // stride
                start = margin + (column + left - j) // stride
                met = padded[:, top : top + rows, start : start + columns].astype(jnp.float32)
                total += met * kernel[i, j, 0].astype(jnp.float32)
        return total.astype(gradient.dtype)

    sets = [jnp.stack([of_set(i, j) for j in range(stride)], axis=3) for i in range(stride)]
    interleaved = jnp.stack(sets, axis=2)  # [B, rows, stride, columns, stride, C]
    whole = interleaved.reshape(batch, rows * stride, columns * stride, channels)
    return whole[:, :height, :width]


def kernel_gradient(
    x: jax.Array, gradient: jax.Array, *, size: int, stride: int, padding: str
) -> jax.Array:
    """The gradient [size, size, 1, C] of `convolve`'s kernel.

    One loop over an image's points adds up the products of all taps: a loop for each tap would read
    everything size * size times. Each image has its own sums, so that the cores share the images.
    """
    products = [
        met * gradient.astype(jnp.float32) for met in _met_by_tap(x, size, stride, padding).values()
    ]
    zeros = (jnp.zeros((), jnp.float32),) * len(products)

    def add(totals: tuple[jax.Array, ...], more: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return tuple(a + b for a, b in zip(totals, more, strict=True))

    by_image = lax.reduce(tuple(products), zeros, add, dimensions=(1, 2))
    total = jnp.stack([jnp.sum(of_tap, axis=0) for of_tap in by_image])
    return total.reshape(size, size, 1, -1).astype(x.dtype)
