"""Position embeddings of one grid of patches resampled to another, as their origins do it.

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
