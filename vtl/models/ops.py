"""The operations that a network spends its time in: convolutions, ReLUs and max-pool.

Each gives the result of `jax.lax`, up to rounding, and is faster on some platform;
docs/performance.md has the measurements. What a ResNet has dozens of is jitted, so that alike ones
are traced once.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from vtl.models import winograd

PADDINGS = ("torch", "same")
"""How a convolution pads: both sides by K // 2 as in torch, or as TensorFlow's SAME does.

They differ where the stride is 2 and the side even: there SAME pads the start by one less.
"""


FEW_CHANNELS = 8
"""Of a photo's kind: below this a convolution is computed in other ways."""


def padding_of(side: int, size: int, stride: int, padding: str) -> tuple[int, int]:
    """Zeros before and after a side of an image, for a kernel of odd `size`."""
    if padding == "torch":
        return size // 2, size // 2
    total = max((math.ceil(side / stride) - 1) * stride + size - side, 0)
    return total // 2, total - total // 2


def paddings_of(x: jax.Array, size: int, stride: int, padding: str) -> list[tuple[int, int]]:
    """`padding_of` the rows and the columns of x [B, H, W, C]."""
    return [padding_of(side, size, stride, padding) for side in x.shape[1:3]]


def scaled(kernel: jax.Array, multiplier: jax.Array | float) -> jax.Array:
    """kernel [K, K, C, F] times a multiplier of each feature [F], or of all.

    As a matrix: of four axes, two of them 1, XLA's CPU backend takes many times as long to add up
    the gradient of `multiplier`.
    """
    rows = kernel.reshape(-1, kernel.shape[-1])
    return (rows * multiplier).reshape(kernel.shape)


@functools.partial(jax.jit, static_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: str = "torch") -> jax.Array:
    """x [B, H, W, C], kernel [K, K, C, F] -> [B, ceil(H / stride), ceil(W / stride), F].

    The output and gradients are XLA's own where nothing faster is known.
    """
    return _convolve(x, kernel, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: str) -> jax.Array:
    return lax.platform_dependent(x, kernel, **_fastest(x, kernel, stride, padding))


Convolution = Callable[[jax.Array, jax.Array], jax.Array]
"""Of an input and a kernel; a gradient, of one of them and the output's gradient."""


def _fastest(x: jax.Array, kernel: jax.Array, stride: int, padding: str) -> dict[str, Convolution]:
    """The fastest way to convolve on each platform; `default` is XLA's own."""
    default = functools.partial(convolve_by_xla, stride=stride, padding=padding)
    ways: dict[str, Convolution] = {"default": default}
    size, has_few_channels = kernel.shape[0], kernel.shape[2] < FEW_CHANNELS
    if size == 1:
        # XLA's CPU backend takes two to four times as long for the convolution. On a GPU, cuDNN's
        # convolution also adds the shortcut and applies the ReLU in the same pass.
        ways["cpu"] = functools.partial(convolve_points, stride=stride, sums=jnp.float32)
    elif winograd.is_faster(x, kernel, stride):
        ways["cpu"] = winograd.convolve
    elif kernel.dtype == jnp.bfloat16 and not has_few_channels:
        ways["cpu"] = functools.partial(convolve_rows, stride=stride, padding=padding)
    if stride == 2 and size > 1 and has_few_channels and padding == "torch":
        ways["cuda"] = convolve_blocks
    return ways


Saved = tuple[jax.Array, jax.Array]
"""What a convolution's gradients need: its input and its kernel."""


def _convolve_forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: str
) -> tuple[jax.Array, Saved]:
    return _convolve(x, kernel, stride, padding), (x, kernel)


def _convolve_backward(
    stride: int, padding: str, saved: Saved, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    size, ways = kernel.shape[0], _fastest(x, kernel, stride, padding)
    ways.pop("cpu", None)
    if (size, stride) == (1, 1):
        # On a GPU, too, the gradients of a 1x1 are faster as products. Not with a larger stride:
        # XLA's GPU compiler ends the process on such a product (openxla/xla#47381).
        ways = {"default": functools.partial(convolve_points, stride=stride)}

    input_gradients: dict[str, Convolution] = {}
    kernel_gradients: dict[str, Convolution] = {}
    for platform, way in ways.items():
        input_gradients[platform] = functools.partial(input_gradient, way, x)
        kernel_gradients[platform] = functools.partial(kernel_gradient, way, kernel)
    is_bfloat16, has_few_channels = kernel.dtype == jnp.bfloat16, kernel.shape[2] < FEW_CHANNELS
    if size == 1:
        input_gradients["cpu"] = functools.partial(points_gradient, like=x, stride=stride)
        kernel_gradients["cpu"] = functools.partial(points_kernel_gradient, stride=stride)
    elif winograd.is_faster(x, kernel, stride):
        input_gradients["cpu"] = winograd.input_gradient
        if jax.device_count() == 1:
            # Several would add up 36 numbers for each pair of channels, and not 9.
            kernel_gradients["cpu"] = winograd.kernel_gradient
    elif is_bfloat16 or has_few_channels:
        kernel_gradients["cpu"] = functools.partial(
            kernel_gradient_by_products, size=size, stride=stride, padding=padding
        )
    if size > 1 and stride == 1 and is_bfloat16:
        input_gradients["cpu"] = functools.partial(rows_gradient, padding=padding)
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


_convolve.defvjp(_convolve_forward, _convolve_backward)


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


def convolve_points(
    x: jax.Array, kernel: jax.Array, stride: int, sums: DTypeLike | None = None
) -> jax.Array:
    """`convolve` with a 1x1 kernel, as a matrix product with one row per point.

    All points share one axis: otherwise the kernel's gradient takes XLA three times as long on a
    CPU. `sums` is the dtype that products are added up in; None leaves it to XLA.
    """
    x = x[:, ::stride, ::stride]
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    rows = jnp.dot(rows, kernel[0, 0], preferred_element_type=sums)
    return rows.reshape(*x.shape[:-1], kernel.shape[-1]).astype(x.dtype)


def convolve_rows(x: jax.Array, kernel: jax.Array, stride: int, padding: str) -> jax.Array:
    """`convolve` as one product per column of the kernel, for a CPU that multiplies bfloat16.

    XLA's CPU backend computes convolutions in float32 only.
    """
    size, features = kernel.shape[0], kernel.shape[-1]
    out = tuple(math.ceil(side / stride) for side in x.shape[1:3])
    total: jax.Array | float = 0.0
    for j, shift, inputs in _met_by_column(x, size, stride, padding, out):
        column = _product(inputs, kernel[:, j].reshape(-1, features))
        total += _shifted(column.reshape(x.shape[0], *out, features), -shift)
    return jnp.asarray(total).astype(x.dtype)


def dense_product(x: jax.Array, kernel: jax.Array, *how: Any, **options: Any) -> jax.Array:
    """`lax.dot_general` as `nn.Dense` calls it: x [..., C], kernel [C, F] -> [..., F].

    On a CPU it and its gradients are those of a 1x1 `convolve`.
    """
    default = functools.partial(_dense_by_xla, how=how, options=options)
    return lax.platform_dependent(x, kernel, cpu=_dense_by_points, default=default)


def _dense_by_xla(x: jax.Array, kernel: jax.Array, *, how: Any, options: Any) -> jax.Array:
    return lax.dot_general(x, kernel, *how, **options)


def _dense_by_points(x: jax.Array, kernel: jax.Array) -> jax.Array:
    num_points = math.prod(x.shape[:-1])
    points = convolve(x.reshape(1, 1, num_points, x.shape[-1]), kernel[None, None], 1)
    return points.reshape(*x.shape[:-1], kernel.shape[-1])


def points_gradient(
    kernel: jax.Array, gradient: jax.Array, *, like: jax.Array, stride: int
) -> jax.Array:
    """The gradient of the input of `convolve_points`, in the shape of `like`, for a CPU."""
    rows = gradient.reshape(-1, gradient.shape[-1])
    points = _product(rows, _channels_first(kernel)).astype(gradient.dtype)
    between = [
        (0, side - stride * (count - 1) - 1, stride - 1)
        for side, count in zip(like.shape[1:3], gradient.shape[1:3], strict=True)
    ]
    points = points.reshape(*gradient.shape[:3], -1)
    return _padded(points, [(0, 0, 0), *between, (0, 0, 0)])


def points_kernel_gradient(x: jax.Array, gradient: jax.Array, *, stride: int) -> jax.Array:
    """The gradient [1, 1, C, F] of the kernel of `convolve_points`, for a CPU."""
    x = _moved(lambda x: x[:, ::stride, ::stride], x)
    channels, features = x.shape[-1], gradient.shape[-1]
    rows = gradient.reshape(-1, features)
    if x.dtype == jnp.bfloat16:
        product = _product(_channels_first(x), rows)
    elif channels > features:
        # A product that transposes its left factor is faster if that one is the narrower. XLA would
        # turn it round again.
        product = lax.optimization_barrier(_product(rows.T, x.reshape(-1, channels))).T
    else:
        product = _product(x.reshape(-1, channels).T, rows)
    return product.reshape(1, 1, channels, features).astype(x.dtype)


def rows_gradient(kernel: jax.Array, gradient: jax.Array, *, padding: str) -> jax.Array:
    """The gradient of the input of `convolve_rows` of stride 1."""
    turned = _moved(lambda kernel: kernel[::-1, ::-1].swapaxes(2, 3), kernel)
    return convolve_rows(gradient, turned, 1, padding)


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

    XLA's CPU backend computes a convolution with a kernel as large as the image, in float32 and, in
    jaxlib 0.10.2, on one core if there are few channels. This computes `size` products, one per
    column of the kernel: the inputs that the column meets, of all the kernel's rows side by side,
    times the gradient shifted to that column. With few channels it is one product.
    """
    channels, features = x.shape[-1], gradient.shape[-1]
    if channels < FEW_CHANNELS:
        rows = _product(
            _met_by_taps(x, size, stride, padding, gradient.shape[1:3]),
            gradient.reshape(-1, features),
        )
        return rows.reshape(size, size, channels, features).astype(x.dtype)
    columns = [
        _product(_channels_first(_shifted(gradient, shift)), inputs)
        for _, shift, inputs in _met_by_column(x, size, stride, padding, gradient.shape[1:3])
    ]
    # [column, F, row, C]
    gradients = jnp.stack(columns).reshape(size, features, size, channels)
    return gradients.transpose(2, 0, 3, 1).astype(x.dtype)


def _met_by_column(
    x: jax.Array, size: int, stride: int, padding: str, out: Sequence[int]
) -> Iterator[tuple[int, int, jax.Array]]:
    """What each column of a kernel meets: its index, how far it reaches, and inputs.

    The inputs are [B * h * w, size * C], of all the kernel's rows side by side, for an `out` [h, w]
    that is shifted by as many columns as the reach says.
    """
    (above, _), (left, _) = paddings_of(x, size, stride, padding)
    height, width = (stride * side for side in out)
    below, beyond = height - x.shape[1] + size - 1 - above, width - x.shape[2]

    def by_row(x: jax.Array) -> jax.Array:
        # Stacked, not concatenated, which takes XLA's CPU backend longer.
        rows = jnp.stack([x[:, i : i + height - stride + 1 : stride] for i in range(size)], axis=3)
        return rows.reshape(*rows.shape[:3], -1)

    x = _padded(x, [(0, 0, 0), (above, below, 0), (0, beyond, 0), (0, 0, 0)])
    rows = _moved(by_row, x)  # [B, h, width, size * C]
    for j in range(size):
        shift, phase = divmod(j - left, stride)
        every = functools.partial(
            lax.slice_in_dim, start_index=phase, limit_index=None, stride=stride, axis=2
        )
        inputs = _moved(every, rows)
        yield j, shift, inputs.reshape(-1, rows.shape[-1])


def _met_by_taps(
    x: jax.Array, size: int, stride: int, padding: str, out: Sequence[int]
) -> jax.Array:
    """What each number of a kernel meets: [size * size * C, B * h * w], for an `out` [h, w]."""
    rows, columns = paddings_of(x, size, stride, padding)
    height, width = (stride * (side - 1) + 1 for side in out)

    def by_tap(x: jax.Array) -> jax.Array:
        x = x.transpose(3, 0, 1, 2)
        met = jnp.stack([x[:, :, i : i + height : stride] for i in range(size)])
        met = jnp.stack([met[..., j : j + width : stride] for j in range(size)], axis=1)
        return met.reshape(size * size * x.shape[0], -1)

    return _moved(by_tap, _padded(x, [(0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)]))


def _shifted(x: jax.Array, columns: int) -> jax.Array:
    """x [B, h, w, C], so many columns further to the right; zeros come in."""
    return _padded(x, [(0, 0, 0), (0, 0, 0), (columns, -columns, 0), (0, 0, 0)])


def _padded(x: jax.Array, config: Sequence[tuple[int, int, int]]) -> jax.Array:
    return _moved(lambda x: lax.pad(x, jnp.zeros((), x.dtype), config), x)


def _channels_first(x: jax.Array) -> jax.Array:
    """x [A, h, w, C] -> [C, A * h * w]."""
    return _moved(lambda x: x.transpose(3, 0, 1, 2).reshape(x.shape[-1], -1), x)


def _moved(move: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """`move(x)`, which changes no number.

    XLA's CPU backend moves bfloat16 as float32; integers of as many bits it moves as they are.
    """
    if x.dtype != jnp.bfloat16:
        return move(x)
    return lax.bitcast_convert_type(move(lax.bitcast_convert_type(x, jnp.uint16)), jnp.bfloat16)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b, with float32 sums; XLA's CPU backend multiplies bfloat16 as such only with these."""
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


@jax.jit
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with a gradient that needs only the output; the gradient at 0 is 0, as in torch.

    On a CPU, XLA recomputes a maximum with 0 wherever it is read. It then keeps the input for the
    backward pass, beside the output that the next convolution needs. It computes a select once. On
    a GPU, a maximum becomes part of the convolution before it.
    """
    return _relu(x)


@jax.custom_jvp
def _relu(x: jax.Array) -> jax.Array:
    return lax.platform_dependent(
        x, cpu=lambda x: jnp.where(x < 0, 0, x), default=lambda x: jnp.maximum(x, 0)
    )


@_relu.defjvp
def _relu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    out = _relu(*primals)
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
