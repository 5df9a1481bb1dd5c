"""The 3x3 convolution of stride 1 by Winograd's minimal filtering F(4x4, 3x3), with its gradients.

A tile of 4x4 outputs takes 36 products a pair of channels, where the sum over a kernel takes 144
(Lavin & Gray 2016, arXiv 1509.09308). Tiles of 6x6 inputs, which overlap, and the kernel are
transformed, multiplied in 36 matrix products, and transformed back; gradients go the same way.

The transforms evaluate polynomials at 0, ±√½, ±√2 and infinity, which rounds less than the usual 0,
±1, ±2 and infinity; experiments/rounding.py measures it, alone and in a network.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

TILE = 4
"""Rows and columns of outputs that are computed together."""

INNER, OUTER = math.sqrt(1 / 2), math.sqrt(2)
"""Points, besides 0 and infinity."""

OF_INPUT = np.array(
    [
        [1, 0, -5 / 2, 0, 1, 0],
        [0, -2 * INNER, -2, INNER, 1, 0],
        [0, 2 * INNER, -2, -INNER, 1, 0],
        [0, -OUTER / 2, -1 / 2, OUTER, 1, 0],
        [0, OUTER / 2, -1 / 2, -OUTER, 1, 0],
        [0, 1, 0, -5 / 2, 0, 1],
    ]
)
"""[6, 6], of a side of a tile."""

OF_KERNEL = np.array(
    [
        [1, 0, 0],
        [-2 / 3, -2 / 3 * INNER, -1 / 3],
        [-2 / 3, 2 / 3 * INNER, -1 / 3],
        [1 / 6, OUTER / 6, 1 / 3],
        [1 / 6, -OUTER / 6, 1 / 3],
        [0, 0, 1],
    ]
)
"""[6, 3], of a side of a kernel."""

OF_PRODUCTS = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, INNER, -INNER, OUTER, -OUTER, 0],
        [0, 1 / 2, 1 / 2, 2, 2, 0],
        [0, INNER / 2, -INNER / 2, 2 * OUTER, -2 * OUTER, 1],
    ]
)
"""[4, 6], back to a side of the outputs."""

OF_KERNEL_2D = np.kron(OF_KERNEL, OF_KERNEL)
"""[36, 9], for a kernel's rows and columns at once."""

MIN_CHANNELS, MIN_TILES = 48, 32
"""With fewer, transforming takes longer than the products that it saves (on an AMD EPYC, Zen 4)."""


def is_faster(x: jax.Array, kernel: jax.Array, stride: int) -> bool:
    """Whether a convolution of x [B, H, W, C] is one of these, and known to be large enough.

    A program that is exported for batches of any size has one that isn't known.
    """
    return (
        (kernel.shape[0], stride, x.dtype) == (3, 1, jnp.float32)
        and all(isinstance(size, int) for size in x.shape)
        and min(kernel.shape[2:]) >= MIN_CHANNELS
        and min(x.shape[1:3]) > TILE
        and x.shape[0] * math.prod(_num_tiles(x)) >= MIN_TILES
    )


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [B, H, W, C], padded with a zero all round; kernel [3, 3, C, F] -> [B, H, W, F]."""
    products = _multiplied(_tiles_of(x), _transformed(kernel))
    return _put_together(products, OF_PRODUCTS, like=x)


def input_gradient(kernel: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient [B, H, W, C] of `convolve`'s x from its output's, [B, H, W, F]."""
    products = _multiplied(_of_output(gradient), _transformed(kernel).swapaxes(1, 2))
    return _put_together(products, OF_INPUT.T, like=gradient, before=1)


def kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient [3, 3, C, F] of `convolve`'s kernel from its output's, [B, H, W, F]."""
    products = _multiplied(_tiles_of(x).swapaxes(1, 2), _of_output(gradient))
    kernels = jnp.asarray(OF_KERNEL_2D.T, x.dtype) @ products.reshape(36, -1)
    return kernels.reshape(3, 3, *products.shape[1:])


def _multiplied(a: jax.Array, b: jax.Array) -> jax.Array:
    """[36, I, J] and [36, J, K] -> [36, I, K]."""
    return lax.dot_general(a, b, (((2,), (1,)), ((0,), (0,))))


def _transformed(kernel: jax.Array) -> jax.Array:
    """[3, 3, C, F] -> [36, C, F]."""
    rows = jnp.asarray(OF_KERNEL_2D, kernel.dtype) @ kernel.reshape(9, -1)
    return rows.reshape(36, *kernel.shape[2:])


def _tiles_of(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [36, tiles, C]."""
    return _taken_apart(x, OF_INPUT, before=1)


def _of_output(gradient: jax.Array) -> jax.Array:
    """[B, H, W, F] -> [36, tiles, F]."""
    return _taken_apart(gradient, OF_PRODUCTS.T, before=0)


def _num_tiles(x: jax.Array) -> tuple[int, int]:
    """Of one image of [B, H, W, C]: down and across."""
    return math.ceil(x.shape[1] / TILE), math.ceil(x.shape[2] / TILE)


def _taken_apart(x: jax.Array, matrix: np.ndarray, before: int) -> jax.Array:
    """The tiles of x [B, H, W, C], transformed by `matrix` [6, side of a tile] -> [36, tiles, C].

    The first tile begins so many numbers `before` x.
    """
    side, (down, across) = matrix.shape[1], _num_tiles(x)
    margins = [
        (before, TILE * (count - 1) + side - before - size)
        for count, size in zip((down, across), x.shape[1:3], strict=True)
    ]
    x = jnp.pad(x, ((0, 0), *margins, (0, 0)))
    rows = [x[:, i : i + TILE * (down - 1) + 1 : TILE] for i in range(side)]
    # Written out, or each column would compute all rows anew.
    half = lax.optimization_barrier(jnp.stack(_combined(matrix, rows)))
    columns = [half[:, :, :, j : j + TILE * (across - 1) + 1 : TILE] for j in range(side)]
    return jnp.stack(_combined(matrix, columns), axis=1).reshape(36, -1, x.shape[-1])


def _put_together(
    products: jax.Array, matrix: np.ndarray, like: jax.Array, before: int = 0
) -> jax.Array:
    """The transpose of `_taken_apart`: [36, tiles, C] -> [B, H, W, C], with the sides of `like`."""
    batch, height, width, _ = like.shape
    tiles = products.reshape(6, 6, batch, *_num_tiles(like), -1)
    half = _side_by_side(_combined(matrix, [tiles[:, j] for j in range(6)]), axis=3)
    half = lax.optimization_barrier(half)
    whole = _side_by_side(_combined(matrix, [half[i] for i in range(6)]), axis=1)
    return whole[:, before : before + height, before : before + width]


def _side_by_side(parts: Sequence[jax.Array], axis: int) -> jax.Array:
    """The n-th numbers of all tiles along `axis`, for each n -> tile after tile along it.

    What reaches beyond a tile is added to the next.
    """
    own, beyond = list(parts[:TILE]), parts[TILE:]
    if beyond:
        own = [_padded(part, axis, (0, 1)) for part in own]
    for n, part in enumerate(beyond):
        own[n] += _padded(part, axis, (1, 0))
    return lax.collapse(jnp.stack(own, axis + 1), axis, axis + 2)


def _padded(x: jax.Array, axis: int, margins: tuple[int, int]) -> jax.Array:
    return jnp.pad(x, [margins if each == axis else (0, 0) for each in range(x.ndim)])


def _combined(matrix: np.ndarray, parts: Sequence[jax.Array]) -> list[jax.Array]:
    """`matrix` times `parts`, as sums: as a product of so few rows it is slower."""
    scaled = (
        [float(factor) * part for factor, part in zip(row, parts, strict=True) if factor]
        for row in matrix
    )
    return [functools.reduce(jnp.add, terms) for terms in scaled]
