"""Random but reproducible tensors of a ResNet, and pixels, from a seed and nothing but NumPy."""

import math
from collections.abc import Mapping

import numpy as np

PHOTOS = ("china.jpg", "flower.jpg")
"""The photos that ship with scikit-learn."""


class Uniform:
    """Uniform numbers from PCG64's raw stream, which NumPy promises never to change.

    `Generator.normal` and the like come with no such promise.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def __call__(self, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
        """float32 [shape] in [low, high)."""
        raw = np.asarray(self._bits.random_raw(math.prod(shape)), np.uint64)
        unit = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return (low + (high - low) * unit).astype(np.float32).reshape(shape)


def draw(uniform: Uniform, leaf: str, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    """One tensor: ranges under which activations neither vanish nor blow up over 152 layers.

    Kernels have He's variance of 2 / fan_in. BatchNorm's scale lies in [0.4, 1), its running
    variance in [0.5, 2), so that no two channels are alike; means and biases are some tenths.
    """
    if leaf == "kernel":
        limit = math.sqrt(6 / fan_in)
        return uniform(-limit, limit, shape)
    low, high = {
        "scale": (0.4, 1.0),
        "bias": (-0.3, 0.3),
        "mean": (-0.5, 0.5),
        "var": (0.5, 2.0),
    }[leaf]
    return uniform(low, high, shape)


def random_state_dict(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """A torchvision state_dict of float32 arrays, drawn one after the other by sorted name."""
    uniform = Uniform(seed)
    tensors = {}
    for name in sorted(shapes):
        shape, leaf = tuple(shapes[name]), name.rpartition(".")[2]
        if leaf == "num_batches_tracked":
            continue
        kind = {"bias": "bias", "running_mean": "mean", "running_var": "var"}.get(leaf)
        kind = kind or ("scale" if len(shape) == 1 else "kernel")
        tensors[name] = draw(uniform, kind, shape, math.prod(shape[1:]))
    return tensors


def without_kinks(tensors: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """A state_dict whose channels are on or off for good: no activation comes close to ReLU's kink.

    BatchNorm's shift is four of its standard deviations or more, up or, inside a block, for a
    quarter of the channels, down.
    """
    uniform = Uniform(seed)
    steady = dict(tensors)
    for name in sorted(tensors):
        module, _, leaf = name.rpartition(".")
        shape = tensors[name].shape
        if tensors[name].ndim != 1 or module == "fc":
            continue
        if leaf == "weight":
            steady[name] = uniform(0.1, 0.2, shape)
        elif leaf == "bias":
            off = (uniform(0, 1, shape) < 0.25) & (not module.endswith(("bn3", "downsample.1")))
            steady[name] = uniform(0.9, 1.3, shape) * np.where(off, np.float32(-1), np.float32(1))
    return steady


def noise(batch: int, size: int, seed: int) -> np.ndarray:
    """uint8 [batch, size, size, 3], every value as likely."""
    return Uniform(seed)(0, 256, (batch, size, size, 3)).astype(np.uint8)


def photo(name: str, size: int) -> np.ndarray:
    """One of `PHOTOS`, squashed to uint8 [size, size, 3]."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    image = Image.fromarray(load_sample_image(name))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def pixels(kind: str, batch: int, size: int, seed: int = 7) -> np.ndarray:
    """uint8 [batch, size, size, 3] of kind `noise`, or `photo`: the two, then their mirrors."""
    if kind == "noise":
        return noise(batch, size, seed)
    two = [photo(name, size) for name in PHOTOS]
    return np.stack((two + [image[:, ::-1] for image in two])[:batch])
