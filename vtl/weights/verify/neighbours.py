"""Whether parts of one photo are alike to a network, and parts of another one are not.

A network that is read as it was trained tells two photos apart whatever part of them it sees, in
whatever light. This needs neither names of classes nor BatchNorm's statistics.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from vtl.models.architecture import Architecture
from vtl.preprocessing import Preprocessing, normalise
from vtl.weights import network, sources

NUM_VIEWS = 12
"""Of each photo."""

_SEED = 0
_BRIGHTNESS = (0.7, 1.3)


def views(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Parts of the two photos, some mirrored, darker or brighter.

    Returns uint8 [N, size, size, 3] and the photo [N] that each is of.
    """
    rng = np.random.default_rng(_SEED)
    pictures, photo_of = [], []
    for index, photo in enumerate(map(Image.fromarray, load_sample_images().images)):
        for _ in range(NUM_VIEWS):
            side = int(rng.integers(min(photo.size) // 2, min(photo.size) + 1))
            left, top = (int(rng.integers(length - side + 1)) for length in photo.size)
            part = photo.crop((left, top, left + side, top + side))
            part = part.resize((size, size), Image.Resampling.BILINEAR)
            if rng.random() < 0.5:
                part = ImageOps.mirror(part)
            part = ImageEnhance.Brightness(part).enhance(rng.uniform(*_BRIGHTNESS))
            pictures.append(np.asarray(part))
            photo_of.append(index)
    return np.stack(pictures), np.array(photo_of)


def gap(features: np.ndarray, photo_of: np.ndarray) -> float:
    """The mean cosine of two views of one photo, less that of views of two photos.

    The features [N, D] are centred first, so that what all views have in common doesn't count: of
    views that fall into two points the gap is 2, and of features that tell nothing about 0.
    """
    centred = features.astype(np.float64) - features.mean(axis=0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.maximum(norms, 1e-30)
    cosines, same = unit @ unit.T, photo_of[:, None] == photo_of
    others = ~np.eye(len(features), dtype=bool)
    return float(cosines[same & others].mean() - cosines[~same].mean())


def measured(weights: sources.Weights, preprocessing: Preprocessing) -> float:
    """The gap of what the network's head sees, with the photos prepared so."""
    pictures, photo_of = views(preprocessing.crop_size)
    run = _features(weights.architecture)
    features = run(network.as_published(weights)[1], normalise(pictures, preprocessing))
    return gap(np.asarray(features), photo_of)


@functools.cache
def _features(architecture: Architecture) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    model = network.with_any_head(architecture)
    return jax.jit(lambda v, x: model.apply(v, x, norms_by_batch=())[1]["features"])
