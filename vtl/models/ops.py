"""The operations that a network spends its time in: convolutions, ReLUs and max-pool.

Each gives the same result as `jax.lax` and is faster on some platform; docs/performance.md has the
measurements.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

PADDINGS = ("torch", "same")
"""How a convolution pads: both sides by K // 2 as in torch, or as TensorFlow's SAME does.

They differ where the stride is 2 and the side even: there SAME pads the start by one less.
"""


def padding_of(side: int, size: int, stride: int, padding: str) -> tuple[int, int]:
    """Zeros before and after a side of an image, for a kernel of odd `size`."""
    if padding == "torch":
        return size // 2, size // 2
    total = max((math.ceil(side / stride) - 1) * stride + size - side, 0)
    return total // 2, total - total // 2


def paddings_of(x: jax.Array, size: int, stride: int, padding: str) -> list[tuple[int, int]]:
    """`padding_of` the rows and the columns of x [B, H, W, C]."""
    return [padding_of(side, size, stride, padding) for side in x.shape[1:3]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: str = "torch") -> jax.Array:
    """x [B, H, W, C], kernel [K, K, C, F] -> [B, ceil(H / stride), ceil(W / stride), F].

    The output and gradients are XLA's own where nothing faster is known.
    """
    return lax.platform_dependent(x, kernel, **_fastest(kernel, stride, padding))


Convolution = Callable[[jax.Array, jax.Array], jax.Array]


def _fastest(kernel: jax.Array, stride: int, padding: str) -> dict[str, Convolution]:
    """The fastest way to convolve on each platform; `default` is XLA's own."""
    default = functools.partial(convolve_by_xla, stride=stride, padding=padding)
    ways: dict[str, Convolution] = {"default": default}
    if kernel.shape[0] == 1:
        # XLA's CPU backend takes two to four times as long for the convolution. On a GPU, cuDNN's
        # convolution also adds the shortcut and applies the ReLU in the same pass.
        ways["cpu"] = functools.partial(convolve_points, stride=stride)
    elif stride == 2 and kernel.shape[2] < 8 and padding == "torch":
        ways["cuda"] = convolve_blocks
    return ways


Saved = tuple[jax.Array, jax.Array]
"""What a convolution's gradients need: its input and its kernel."""


def _convolve_forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: str
) -> tuple[jax.Array, Saved]:
    return convolve(x, kernel, stride, padding), (x, kernel)


def _convolve_backward(
    stride: int, padding: str, saved: Saved, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    size, ways = kernel.shape[0], _fastest(kernel, stride, padding)
    if (size, stride) == (1, 1):
        # On a GPU, too, the gradients of a 1x1 are faster as products. Not with a larger stride:
        # XLA's GPU compiler ends the process on such a product (openxla/xla#47381).
        ways = {"default": functools.partial(convolve_points, stride=stride)}

    input_gradients, kernel_gradients = {}, {}
    for platform, way in ways.items():
        input_gradients[platform] = functools.partial(input_gradient, way, x)
        kernel_gradients[platform] = functools.partial(kernel_gradient, way, kernel)
    if size > 1:
        kernel_gradients["cpu"] = functools.partial(
            kernel_gradient_by_products, size=size, stride=stride, padding=padding
        )
    return (
        lax.platform_dependent(kernel, gradient, **input_gradients),
        lax.platform_dependent(x, gradient, **kernel_gradients),
    )


def input_gradient(
    way: Convolution, like: jax.Array, kernel: jax.Array, gradient: jax.Array
) -> jax.Array:
    """The gradient of the input of `way`, in the shape of `like`, by JAX."""
    return jax.linear_transpose(lambda x: way(x, kernel), like)(gradient)[0]


def kernel_gradient(
    way: Convolution, like: jax.Array, x: jax.Array, gradient: jax.Array
) -> jax.Array:
    """The gradient of the kernel of `way`, in the shape of `like`, by JAX."""
    return jax.linear_transpose(lambda kernel: way(x, kernel), like)(gradient)[0]


convolve.defvjp(_convolve_forward, _convolve_backward)


def convolve_by_xla(x: jax.Array, kernel: jax.Array, stride: int, padding: str) -> jax.Array:
    """`convolve` in XLA's own way; with a kernel [K, K, 1, C], each channel by itself."""
    return _convolve_padded(x, kernel, stride, paddings_of(x, kernel.shape[0], stride, padding))


def _convolve_padded(
    x: jax.Array, kernel: jax.Array, stride: int, paddings: list[tuple[int, int]]
) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=paddings,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def convolve_points(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`convolve` with a 1x1 kernel, as a matrix product with one row per point.

    All points share one axis: otherwise the kernel's gradient takes XLA three times as long on a
    CPU.
    """
    x = x[:, ::stride, ::stride]
    rows = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
    return rows.reshape(*x.shape[:-1], -1)


def convolve_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve` of stride 2 as one of stride 1 over blocks of 2x2 pixels (space to depth).

    A block has four times the channels. cuDNN takes at least eight at a time, and pads a photo's
    three with zeros.
    """
    batch, height, width, channels = x.shape
    size, features = kernel.shape[0], kernel.shape[-1]
    # If the kernel starts an odd number of rows before its centre, its first row is the second of a
    # block.
    before = size // 2 % 2
    taps = (before + size + 1) // 2
    after = 2 * taps - size - before
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    kernel = jnp.pad(kernel, ((before, after), (before, after), (0, 0), (0, 0)))
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    x = x.reshape(batch, rows, 2, columns, 2, channels).swapaxes(2, 3)
    kernel = kernel.reshape(taps, 2, taps, 2, channels, features).swapaxes(1, 2)
    blocks_before = (size // 2 + before) // 2
    return _convolve_padded(
        x.reshape(batch, rows, columns, -1),
        kernel.reshape(taps, taps, -1, features),
        stride=1,
        paddings=[(blocks_before, taps - 1 - blocks_before)] * 2,
    )


def kernel_gradient_by_products(
    x: jax.Array, gradient: jax.Array, *, size: int, stride: int, padding: str = "torch"
) -> jax.Array:
    """The gradient [size, size, C, F] of `convolve`'s kernel from its output's [B, h, w, F].

    XLA's CPU backend computes a convolution with a kernel as large as the image. That is slower
    than products and, in jaxlib 0.10.2, uses one core if there are few channels. This computes
    `size` products, one per column of the kernel: the inputs that the column meets, of all the
    kernel's rows side by side, times the gradient shifted to that column.
    """
    (above, _), (left, _) = paddings_of(x, size, stride, padding)
    zero = jnp.zeros((), x.dtype)
    height, width = (stride * n for n in gradient.shape[1:3])
    below, beyond = height - x.shape[1] + size - 1 - above, width - x.shape[2]
    x = lax.pad(x, zero, [(0, 0, 0), (above, below, 0), (0, beyond, 0), (0, 0, 0)])
    met_by_row = [x[:, i : i + height - stride + 1 : stride] for i in range(size)]
    rows = jnp.concatenate(met_by_row, axis=-1)  # [B, h, width, size * C]
    columns = []
    for j in range(size):
        shift, phase = divmod(j - left, stride)
        shifted = lax.pad(gradient, zero, [(0, 0, 0), (0, 0, 0), (shift, -shift, 0), (0, 0, 0)])
        inputs = rows[:, :, phase::stride].reshape(-1, rows.shape[-1])
        # The narrower factor comes first: a CPU multiplies so many rows faster that way.
        columns.append(shifted.reshape(-1, shifted.shape[-1]).T @ inputs)
    # [column, F, row, C]
    gradients = jnp.stack(columns).reshape(size, gradient.shape[-1], size, x.shape[-1])
    return gradients.transpose(2, 0, 3, 1)


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with a gradient that needs only the output; the gradient at 0 is 0, as in torch.

    On a CPU, XLA recomputes a maximum with 0 wherever it is read. It then keeps the input for the
    backward pass, beside the output that the next convolution needs. It computes a select once. On
    a GPU, a maximum becomes part of the convolution before it.
    """
    return lax.platform_dependent(
        x, cpu=lambda x: jnp.where(x < 0, 0, x), default=lambda x: jnp.maximum(x, 0)
    )


@relu.defjvp
def _relu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    out = relu(*primals)
    return out, jnp.where(out > 0, tangents[0], 0)


@jax.custom_jvp
def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6) in the way of `relu`; the gradient at 0 and at 6 is 0, as in torch."""
    return lax.platform_dependent(
        x,
        cpu=lambda x: jnp.where(x < 0, 0, jnp.where(x > 6, 6, x)),
        default=lambda x: jnp.minimum(jnp.maximum(x, 0), 6),
    )


@relu6.defjvp
def _relu6_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    out = relu6(*primals)
    return out, jnp.where((out > 0) & (out < 6), tangents[0], 0)


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 max-pool of stride 2 and padding 1: [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C].

    Pools the rows first, then the columns: each result is the largest of an even row and its two
    neighbours. On a CPU, with its gradient, this is more than three times as fast as the maximum of
    nine strided slices, which is five times as fast as a reduce-window.
    """
    lowest = jnp.array(-jnp.inf, x.dtype)
    for axis in (1, 2):
        before, size = x.shape[:axis], x.shape[axis]
        x = lax.pad(x, lowest, [(0, size % 2 if a == axis else 0, 0) for a in range(4)])
        pairs = x.reshape(*before, (size + 1) // 2, 2, *x.shape[axis + 1 :])
        even, odd = (jnp.squeeze(part, axis + 1) for part in jnp.split(pairs, 2, axis + 1))
        # The odd row before each even one.
        previous = lax.pad(odd, lowest, [(1, -1, 0) if a == axis else (0, 0, 0) for a in range(4)])
        x = functools.reduce(_larger, (previous, even, odd))
    return x


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """The maximum; if both are equal the gradient goes to `a`, as in torch."""
    return jnp.where(a >= b, a, b)
