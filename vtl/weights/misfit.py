"""How far a network is, on photos, from what its BatchNorms kept of its training.

BatchNorm keeps the variance that each convolution's output had in training. On photos, a network
that is read as it was trained shows about the same; pixels on another scale, a stride in another
place or other padding shift it, layer after layer.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from vtl.models.resnet import EPSILON, Conv
from vtl.weights import convert, network, pictures, sources
from vtl.weights.preprocessing import Preprocessing, normalise

NUM_CROPS = 8
_TINY = 1e-12


class Reading(NamedTuple):
    """One way to read a weight file."""

    preprocessing: Preprocessing
    variant: str
    epsilon: float
    padding: str = "torch"
    """`torch`, or `same` as TensorFlow pads: what the network was trained with."""


class Misfit(NamedTuple):
    """Of one convolution: |log(found / kept variance)| of the median channel, and log found [C]."""

    median: float
    log_found: np.ndarray

    @classmethod
    def of(cls, found: jax.Array, kept: np.ndarray) -> "Misfit":
        """From variances [C]."""
        log_found = np.log(np.asarray(found) + _TINY)
        return cls(apart(log_found, kept), log_found)


def apart(log_found: np.ndarray, kept: np.ndarray) -> float:
    """The median over channels of |log_found - log(kept variances)|, at most 3."""
    median = float(np.median(np.abs(log_found - np.log(kept + _TINY))))
    return median if median < 3 else 3.0  # of NaN, too


def misfits(weights: sources.Weights, reading: Reading) -> dict[str, Misfit]:
    """Convolution's path -> how far its output is from what BatchNorm kept, in calling order."""
    variables = network.as_published(weights)[1]
    # Only var + eps matters, and another variance compiles nothing anew.
    epsilon = EPSILON["v1.5"]
    change = reading.epsilon - epsilon
    variables["batch_stats"] = jax.tree.map_with_path(
        lambda path, leaf: leaf + change if path[-1].key == "var" else leaf,
        variables["batch_stats"],
    )
    pixels = normalise(
        pictures.photo_crops(NUM_CROPS, reading.preprocessing.crop_size), reading.preprocessing
    )
    own = dataclasses.replace(weights.architecture, variant=reading.variant, epsilon=epsilon)
    order, run = _watched(own, reading.padding)
    variances = run(variables, pixels)
    norms = norms_of(weights.tensors)
    return {conv: Misfit.of(variances[conv], norms[norm_of(conv)]["var"]) for conv in order}


@functools.cache
def _watched(
    architecture: convert.Architecture, padding: str
) -> tuple[list[str], Callable[[dict, jax.Array], dict[str, jax.Array]]]:
    """A jitted network that returns the variance of each convolution's output, and their order."""
    num_classes = architecture.num_classes or 1000
    model = network.make_model(dataclasses.replace(architecture, num_classes=num_classes))
    order: list[str] = []  # of the calls, which a tree of arrays forgets

    @jax.jit
    def run(variables: dict, images: jax.Array) -> dict[str, jax.Array]:
        found = {}

        def watch(call: Callable, arguments: tuple, options: dict, context: Any) -> Any:
            conv = context.module
            if not isinstance(conv, Conv):
                return call(*arguments, **options)
            x, multiplier = arguments
            if padding == "same" and conv.stride > 1:
                y = conv_same(x, conv.variables["params"]["kernel"], conv.stride)
            else:
                y = call(x, **options)
            found["/".join(conv.path)] = jnp.var(y, axis=(0, 1, 2))
            return y * multiplier

        with nn.intercept_methods(watch):
            model.apply(variables, images, live_norms=())
        order[:] = found
        return found

    return order, run


def conv_same(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A convolution [B, H, W, C] padded as TensorFlow's SAME does."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, "SAME", dimension_numbers=layout)


def mean(layers: dict[str, Misfit]) -> float:
    """Over all layers: one number for a reading."""
    return float(np.mean([layer.median for layer in layers.values()]))


def norm_of(conv: str) -> str:
    """The BatchNorm behind a convolution."""
    return conv.replace("downsample_0", "downsample_1").replace("conv", "bn")


def norms_of(tensors: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """BatchNorm's path -> its scale, bias, mean and var, in the file's order."""
    norms: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in tensors.items():
        module, _, leaf = key.partition("/")[2].rpartition("/")
        if leaf in ("scale", "mean", "var") or (leaf == "bias" and module != "fc"):
            norms.setdefault(module, {})[leaf] = tensor
    return norms
