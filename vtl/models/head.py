"""What a network's last layer sees of the last stage's maps, and how that becomes logits.

Pooling makes one vector of numbers of a photo, a transform scales it, and a dense layer gives the
logits. With `regions` the same layer also sees each cell of a grid by itself, and a class's logit
is the mean of the whole photo's and of its best cell's.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

POOLINGS = ("average", "maximum", "both", "cells")
"""`both` is the average, then the maximum; `cells` the largest average of 2 x 2 cells."""

TRANSFORMS = ("none", "l2", "sqrt_l2")
"""`l2` divides by the norm, `sqrt_l2` takes signed square roots first (Perronnin et al. 2010)."""

PLAIN: dict[str, Any] = {"pooling": "average", "transform": "none", "regions": 0}
"""Torchvision's head: a dense layer on the mean of the last stage."""

MAX_REGIONS = 7
"""Cells on a side: a ResNet makes 7 x 7 points of 224 pixels."""

_CELLS = 2
_SMALL = 1e-6
"""Below it a square root is nearly linear, so that its gradient at 0 is finite."""


def features_per_channel(pooling: str) -> int:
    """How many features pooling makes of each channel."""
    return 2 if pooling == "both" else 1


def pooled(maps: jax.Array, pooling: str) -> jax.Array:
    """maps [B, H, W, C] -> [B, C] float32, or [B, 2 C] for `both`."""
    maps = maps.astype(jnp.float32)
    if pooling == "average":
        return jnp.mean(maps, axis=(1, 2))
    if pooling == "maximum":
        return jnp.max(maps, axis=(1, 2))
    if pooling == "both":
        return jnp.concatenate([pooled(maps, "average"), pooled(maps, "maximum")], axis=1)
    return jnp.max(pooled_cells(maps, _CELLS, "average"), axis=1)


def pooled_cells(maps: jax.Array, grid: int, pooling: str) -> jax.Array:
    """maps [B, H, W, C] -> [B, grid * grid, D]: the cells of torch's adaptive pooling, by rows."""
    return jnp.stack([pooled(cell, pooling) for cell in _cells(maps, grid)], axis=1)


def _cells(maps: jax.Array, grid: int) -> Iterator[jax.Array]:
    height, width = maps.shape[1:3]
    for row in range(grid):
        for column in range(grid):
            yield maps[:, _cell(row, grid, height), _cell(column, grid, width)]


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


def views(maps: jax.Array, pooling: str, regions: int) -> jax.Array:
    """maps [B, H, W, C] -> [B, 1 + regions * regions, D]: the photo pooled, then each cell."""
    whole = pooled(maps, pooling)[:, None]
    return jnp.concatenate([whole, pooled_cells(maps, regions, pooling)], 1) if regions else whole


def logits_of(of_views: jax.Array) -> jax.Array:
    """The views' logits [B, V, C] -> [B, C]: the mean of the whole's and of the best cell's."""
    whole, cells = of_views[:, 0], of_views[:, 1:]
    return (whole + jnp.max(cells, axis=1)) / 2 if cells.shape[1] else whole


def evidence(
    maps: jax.Array, kernel: jax.Array, *, pooling: str, transform: str, regions: int
) -> jax.Array:
    """maps [B, H, W, C], kernel [D, K] -> where each class's logit comes from, [B, H, W, K].

    A map's mean plus its class's bias is the class's logit. With average pooling, no transform and
    no regions these are class activation maps (Zhou et al. 2016, "Learning Deep Features for
    Discriminative Localization"). Otherwise a transformed feature is shared out among the points as
    the feature itself is, of which a maximum belongs to one point.
    """
    maps = maps.astype(jnp.float32)
    if {"pooling": pooling, "transform": transform, "regions": regions} == PLAIN:
        return maps @ kernel
    features = views(maps, pooling, regions)
    seen = transformed(features, transform)
    scale = seen / jnp.where(features == 0, 1, features)
    logits, pull_logits = jax.vjp(logits_of, seen @ kernel)
    (shares,) = pull_logits(jnp.ones_like(logits))  # [B, V, K]: how much of a view's logit counts
    _, pull = jax.vjp(lambda maps: views(maps, pooling, regions), maps)

    def of_class(weights: jax.Array, share: jax.Array) -> jax.Array:
        (gradient,) = pull(share[:, :, None] * weights * scale)
        return math.prod(maps.shape[1:3]) * jnp.sum(maps * gradient, axis=-1)

    by_class = lax.map(lambda x: of_class(*x), (kernel.T, jnp.moveaxis(shares, -1, 0)))
    return jnp.moveaxis(by_class, 0, -1)
