"""What the demo's two synthetic data sets share: textured backgrounds, and paint on them."""

import numpy as np
from PIL import Image

CONTRAST = 70
"""The least difference, in 0..255, between the means of a colour and of the box it is put on."""


def texture(rng: np.random.Generator, width: int, height: int, strength: float) -> np.ndarray:
    """A background [height, width, 3] in 0..255: two colours that run into each other, and grain.

    `strength` goes from 0, one plain colour, to 1.
    """
    first, second = rng.uniform(20, 235, (2, 3))
    cells = rng.integers(3, 14, 2)
    noise = Image.fromarray(rng.uniform(0, 1, cells).astype(np.float32))
    blend = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))[..., None]
    grain = rng.normal(0, rng.uniform(2, 14), (height, width, 1))
    return np.clip(first + strength * (blend * (second - first) + grain), 0, 255)


def paint(rng: np.random.Generator, below: np.ndarray, opacity: np.ndarray) -> None:
    """Blend one colour into the pixels `below` [H, W, 3], in place, with an opacity [H, W]."""
    colour = rng.uniform(0, 255, 3)
    while abs(np.mean(colour) - np.mean(below)) < CONTRAST:
        colour = rng.uniform(0, 255, 3)
    below += opacity[..., None] * (colour - below)
