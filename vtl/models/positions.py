"""Where a patch is: learnt embeddings resampled to another grid, or rotary positions.

Bicubic interpolation is linear and works row by row and column by column, so a small matrix of
weights says it all.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

RESAMPLINGS = ("antialias", "plain", "offset")
"""`antialias` is timm's and DINOv2's with registers; `plain` is that of Hugging Face's other ViTs
and of MAE; `offset` is DINO's and DINOv2's, which ask for a tenth of a patch more.
"""

_OFFSET = 0.1

ROTARY = ("float32", "bfloat16")
"""What DINOv3's rotary periods are rounded to: in facebookresearch's own files `bfloat16`, in timm
and transformers `float32`.
"""

BASE = 100.0

Turns = tuple[jax.Array, jax.Array]
"""Cosines and sines by token and channel of a head, [T, D] float32."""


def weights(old: int, new: int, resampling: str) -> np.ndarray:
    """How much each of `old` points in a row counts in each of `new`, [new, old] float32.

    As torch.nn.functional.interpolate(mode="bicubic", align_corners=False) weighs them.
    """
    if old == new:
        return np.eye(new, dtype=np.float32)
    if resampling == "antialias":
        scale = old / new
        a, stretch = -0.5, max(scale, 1.0)
    else:
        scale = old / (new + (_OFFSET if resampling == "offset" else 0.0))
        a, stretch = -0.75, 1.0
    centres = scale * (np.arange(new)[:, None] + 0.5) - 0.5
    reach = math.ceil(2 * stretch)
    places = np.arange(-reach, old + reach)
    taps = _cubic((places - centres) / stretch, a)
    inside = np.clip(places, 0, old - 1)
    if resampling == "antialias":  # what lies outside is left out; elsewhere the border stands in
        taps = taps * (places == inside)
        taps /= taps.sum(axis=1, keepdims=True)
    return (taps @ (inside[:, None] == np.arange(old))).astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel. Source: Keys 1981, "Cubic Convolution Interpolation", equation 15 for `a`."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resampled(embeddings: jax.Array, grid: tuple[int, int], resampling: str) -> jax.Array:
    """Embeddings [N, N, D] of a square grid -> [*grid, D]; at their own grid they stay as is."""
    old = embeddings.shape[0]
    if grid == (old, old):
        return embeddings
    rows, columns = (weights(old, new, resampling) for new in grid)
    return jnp.einsum("ih,jw,hwd->ijd", rows, columns, embeddings)


def periods(channels: int, rounding: str) -> np.ndarray:
    """Periods of a head's rotary positions, in half photos, [channels / 4] float32.

    `rounding` is one of `ROTARY`. Source: Siméoni et al. 2025, "DINOv3", section 3.2.
    """
    steps = np.arange(channels // 4, dtype=np.float32) / (channels // 4)
    return (np.float32(BASE) ** steps).astype(jnp.dtype(rounding)).astype(np.float32)


def turns(grid: tuple[int, int], num_others: int, channels: int, rounding: str) -> Turns:
    """How far tokens turn: the first `num_others` not at all, then patches by their places.

    These are of their centres, from -1 to 1 down and across the photo. `channels` are a head's.
    """
    places = (2 * (np.arange(side, dtype=np.float32) + 0.5) / side - 1 for side in grid)
    by_patch = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    angles = 2 * math.pi * by_patch / periods(channels, rounding)
    angles = np.tile(angles.reshape(len(by_patch), -1), 2)
    angles = np.pad(angles, ((num_others, 0), (0, 0)))
    return jnp.cos(angles), jnp.sin(angles)


def turned(x: jax.Array, turns: Turns) -> jax.Array:
    """Queries or keys [B, heads, T, D], each channel of the first half turned with its other."""
    cosines, sines = turns
    exact = x.astype(jnp.float32)
    first, second = jnp.split(exact, 2, axis=-1)
    across = jnp.concatenate([-second, first], axis=-1)
    return (exact * cosines + across * sines).astype(x.dtype)
