"""What a network's last layer sees of the last stage's maps, and how that becomes logits.

Pooling makes one vector of numbers of a photo, a transform scales it, and a dense layer gives the
logits. With `regions` the same layer also sees each cell of a grid by itself, and a class's logit
is the mean of the whole photo's and of its best cell's.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

TOKEN_POOLINGS = ("token", "token_average")
"""The network's own summary of the photo, such as a class token; that, then the average."""

POOLINGS = ("average", "maximum", "both", "cells", *TOKEN_POOLINGS)
"""`both` is the average, then the maximum; `cells` the largest average of 2 x 2 cells."""

PAIRS = {"both": ("average", "maximum"), "token_average": ("token", "average")}
"""What poolings are that put two side by side."""

TRANSFORMS = ("none", "l2", "sqrt_l2")
"""`l2` divides by the norm, `sqrt_l2` takes signed square roots first (Perronnin et al. 2010)."""

MAX_REGIONS = 7
"""Cells on a side: a ResNet makes 7 x 7 points of 224 pixels."""

_CELLS = 2
_SMALL = 1e-6
"""Below it a square root is nearly linear, so that its gradient at 0 is finite."""


class Seen(NamedTuple):
    """What a network's body gives its head: the last stage and, from some, a summary of it."""

    maps: jax.Array
    """[B, H, W, C]."""
    summary: jax.Array | None = None
    """[B, C], such as a class token."""
    points: jax.Array | None = None
    """[B, H, W, C]: what stands for the summary of each point by itself."""


def num_features(num_channels: int, pooling: str) -> int:
    """How many features pooling makes of so many channels."""
    return num_channels * len(PAIRS.get(pooling, (pooling,)))


def pooled(seen: Seen, pooling: str) -> jax.Array:
    """[B, D] float32, where `num_features` says D."""
    maps = seen.maps.astype(jnp.float32)
    if pooling == "average":
        return jnp.mean(maps, axis=(1, 2))
    if pooling == "maximum":
        return jnp.max(maps, axis=(1, 2))
    if pooling == "cells":
        return jnp.max(pooled_cells(seen, _CELLS, "average"), axis=1)
    if pooling == "token":
        assert seen.summary is not None
        return seen.summary.astype(jnp.float32)
    return jnp.concatenate([pooled(seen, part) for part in PAIRS[pooling]], axis=1)


def pooled_cells(seen: Seen, grid: int, pooling: str) -> jax.Array:
    """[B, grid * grid, D]: the cells of torch's adaptive pooling, by rows."""
    if grid == 1:
        return pooled(seen, pooling)[:, None]
    return jnp.stack([pooled(cell, pooling) for cell in _cells(seen, grid)], axis=1)


def _cells(seen: Seen, grid: int) -> Iterator[Seen]:
    height, width = seen.maps.shape[1:3]
    for row in range(grid):
        for column in range(grid):
            place = np.s_[:, _cell(row, grid, height), _cell(column, grid, width)]
            points = None if seen.points is None else seen.points[place]
            yield summed_up(seen.maps[place], points)


def summed_up(maps: jax.Array, points: jax.Array | None) -> Seen:
    """Points [B, H, W, C] under the mean of their own summaries."""
    return Seen(maps, None if points is None else jnp.mean(points, axis=(1, 2)), points)


def _cell(place: int, grid: int, side: int) -> slice:
    return slice(place * side // grid, math.ceil((place + 1) * side / grid))


def transformed(features: jax.Array, transform: str) -> jax.Array:
    """features [..., D] as the dense layer gets them; 0 stays 0."""
    if transform == "none":
        return features
    if transform == "sqrt_l2":
        roots = jnp.sqrt(jnp.abs(features) + _SMALL) - math.sqrt(_SMALL)
        features = jnp.sign(features) * roots
    squares = jnp.sum(features**2, axis=-1, keepdims=True)
    return features * lax.rsqrt(jnp.maximum(squares, _SMALL**2))


def views(seen: Seen, pooling: str, regions: int) -> jax.Array:
    """[B, 1 + regions * regions, D]: the photo pooled, then each cell."""
    whole = pooled(seen, pooling)[:, None]
    return jnp.concatenate([whole, pooled_cells(seen, regions, pooling)], 1) if regions else whole


def logits_of(of_views: jax.Array) -> jax.Array:
    """The views' logits [B, V, C] -> [B, C]: the mean of the whole's and of the best cell's."""
    whole, cells = of_views[:, 0], of_views[:, 1:]
    return (whole + jnp.max(cells, axis=1)) / 2 if cells.shape[1] else whole


def evidence(
    seen: Seen, kernel: jax.Array, *, pooling: str, transform: str, regions: int
) -> jax.Array:
    """Where each class's logit comes from, [B, H, W, K], by the head's kernel [D, K].

    A map's mean plus its class's bias is the class's logit. With average pooling, no transform and
    no regions these are class activation maps (Zhou et al. 2016, "Learning Deep Features for
    Discriminative Localization"). Otherwise a transformed feature is shared out among the points as
    the feature itself is, of which a maximum belongs to one point.

    Of a token this is an approximation: each point's own summary stands for its share (Vilas et al.
    2023, "Analyzing Vision Transformers for Image Classification in Class Embedding Space"), and
    what these don't explain is spread evenly.
    """
    if (pooling, transform, regions) == ("average", "none", 0):
        return seen.maps.astype(jnp.float32) @ kernel
    features = views(seen, pooling, regions)
    transformed_features = transformed(features, transform)
    scale = transformed_features / jnp.where(features == 0, 1, features)
    logits, pull_logits = jax.vjp(logits_of, transformed_features @ kernel)
    (shares,) = pull_logits(jnp.ones_like(logits))  # [B, V, K]: how much of a view's logit counts
    parts = seen.maps.astype(jnp.float32), seen.points
    _, pull = jax.vjp(lambda *parts: views(summed_up(*parts), pooling, regions), *parts)
    num_points = math.prod(seen.maps.shape[1:3])

    def of_class(weights: jax.Array, share: jax.Array) -> jax.Array:
        gradients = pull(share[:, :, None] * weights * scale)
        by_part = jax.tree.map(lambda part, by: jnp.sum(part * by, axis=-1), parts, gradients)
        return num_points * functools.reduce(jnp.add, jax.tree.leaves(by_part))

    by_class = lax.map(lambda x: of_class(*x), (kernel.T, jnp.moveaxis(shares, -1, 0)))
    maps = jnp.moveaxis(by_class, 0, -1)
    if pooling in TOKEN_POOLINGS:
        maps += (logits - jnp.mean(maps, axis=(1, 2)))[:, None, None]
    return maps
