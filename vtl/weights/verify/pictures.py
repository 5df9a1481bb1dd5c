"""What `verify` shows a network: parts of two real photos, and drawn oranges and lemons.

The photos come with scikit-learn. Two photos don't tell red from blue, so the fruit is drawn: an
ImageNet network recognises an orange by its colour, and in BGR it sees none.
"""

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

ORANGE, LEMON = 950, 951
"""Indices among ImageNet's 1,000 classes."""

_COLOURS = {ORANGE: (240, 130, 20), LEMON: (245, 215, 40)}
_SEED = 0


def photo_crops(count: int, size: int) -> np.ndarray:
    """Seeded square parts of the photos, uint8 [count, size, size, 3]."""
    rng = np.random.default_rng(_SEED)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    crops = []
    for i in range(count):
        photo = photos[i % len(photos)]
        side = int(rng.integers(min(photo.size) // 2, min(photo.size) + 1))
        left, top = (int(rng.integers(length - side + 1)) for length in photo.size)
        part = photo.crop((left, top, left + side, top + side))
        crops.append(np.asarray(part.resize((size, size), Image.Resampling.BILINEAR)))
    return np.stack(crops)


def fruit(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Oranges and lemons on grey, uint8 [count, size, size, 3], and their classes [count]."""
    rng = np.random.default_rng(_SEED)
    classes = np.array([(ORANGE, LEMON)[i % 2] for i in range(count)])
    return np.stack([_still_life(rng, _COLOURS[c], size) for c in classes]), classes


def _still_life(rng: np.random.Generator, colour: tuple[int, int, int], size: int) -> np.ndarray:
    """One to four balls of a colour, lit from the upper left; drawn at twice the size."""
    side = 2 * size
    y, x = np.mgrid[:side, :side] / side
    grain = rng.normal(0, 6, (side, side, 1))
    picture = np.clip(rng.uniform(90, 230) + grain, 0, 255) * (0.8 + 0.25 * y[..., None])
    picture = np.repeat(picture, 3, axis=-1)
    for _ in range(int(rng.integers(1, 5))):
        radius = rng.uniform(0.14, 0.24)
        dx, dy = ((axis - rng.uniform(0.25, 0.75)) / radius for axis in (x, y))
        shadow = np.exp(-((dx - 0.3) ** 2) - ((dy - 0.9) / 0.35) ** 2)
        picture *= 1 - 0.45 * shadow[..., None]
        height = np.sqrt(np.clip(1 - dx**2 - dy**2, 0, 1))
        light = np.clip(-0.4 * dx - 0.5 * dy + 0.77 * height, 0, 1)
        peel = 1 + 0.05 * rng.normal(size=(side // 6 + 1,) * 2).repeat(6, 0).repeat(6, 1)
        shade = (0.35 + 0.65 * light) * peel[:side, :side]
        ball = shade[..., None] * np.array(colour) + 128 * (light**30)[..., None]
        edge = np.clip((1 - dx**2 - dy**2) * radius * side / 2, 0, 1)[..., None]
        picture += edge * (ball - picture)
    pixels = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return np.asarray(pixels.resize((size, size), Image.Resampling.BOX))
