"""How far a network's outputs on photos are from the statistics that its BatchNorms recorded.

BatchNorm records the variance of each convolution's output in training. If the network is read as
it was trained, photos give about the same variances. Pixels on another scale, a stride in another
place or other padding shift them, layer after layer.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtl.models.architecture import Architecture
from vtl.models.resnet import EPSILON
from vtl.preprocessing import Preprocessing, normalise
from vtl.weights import network, sources, watched
from vtl.weights.verify import pictures
from vtl.weights.watched import COLLECTION, WatchedConv, outputs_by_path

NUM_CROPS = 8
_TINY = 1e-12


class Reading(NamedTuple):
    """One way to read a weight file."""

    preprocessing: Preprocessing
    architecture: Architecture
    """One with BatchNorm."""
    padding: str = "torch"
    """The padding that the network was trained with: `torch`, or TensorFlow's `same`."""


class Misfit(NamedTuple):
    """One convolution's `distance`, and the log of the variances [C] measured on photos."""

    median: float
    log_measured: np.ndarray

    @classmethod
    def of(cls, measured: jax.Array, recorded: np.ndarray) -> "Misfit":
        """From variances [C]."""
        log_measured = np.log(np.asarray(measured) + _TINY)
        return cls(distance(log_measured, recorded), log_measured)


def distance(log_measured: np.ndarray, recorded: np.ndarray) -> float:
    """The median over channels of |log_measured - log(recorded variances)|, at most 3."""
    median = float(np.median(np.abs(log_measured - np.log(recorded + _TINY))))
    return median if median < 3 else 3.0  # also if it is NaN


def misfits(weights: sources.Weights, reading: Reading) -> dict[str, Misfit]:
    """Convolution's path -> its misfit, in the order of the calls."""
    variables = network.as_published(weights)[1]
    # Only var + eps matters, and other variances, unlike another eps, compile nothing again.
    epsilon = EPSILON["v1.5"]
    change = (reading.architecture.batch_norm_epsilon or epsilon) - epsilon
    variables["batch_stats"] = jax.tree.map_with_path(
        lambda path, leaf: leaf + change if path[-1].key == "var" else leaf,
        variables["batch_stats"],
    )
    pixels = normalise(
        pictures.photo_crops(NUM_CROPS, reading.preprocessing.crop_size), reading.preprocessing
    )
    changes: dict[str, Any] = {"epsilon": epsilon}
    order, run = _watched(dataclasses.replace(reading.architecture, **changes), reading.padding)
    variances = run(variables, pixels)
    norms, after = norms_of(weights.tensors), norm_by_conv(weights.architecture)
    return {conv: Misfit.of(variances[conv], norms[after[conv]]["var"]) for conv in order}


@functools.cache
def norm_by_conv(architecture: Architecture) -> dict[str, str]:
    """Convolution -> the BatchNorm that follows it, in calling order."""
    model = network.with_any_head(architecture)
    return watched.norm_by_conv(model, network.shapes_of(model), image_size=64)


@functools.cache
def _watched(
    architecture: Architecture, padding: str
) -> tuple[list[str], Callable[[dict[str, Any], jax.Array], dict[str, jax.Array]]]:
    """A jitted network that returns the variance of each convolution's output, and their order.

    The order is known once the network has run.
    """
    model = network.with_any_head(architecture)
    model = model.clone(conv=functools.partial(WatchedConv, padding=padding))
    order: list[str] = []  # set when traced: jit returns dicts sorted by key

    @jax.jit
    def run(variables: dict[str, Any], images: jax.Array) -> dict[str, jax.Array]:
        _, collections = model.apply(variables, images, norms_by_batch=(), mutable=[COLLECTION])
        outputs = outputs_by_path(collections)
        order[:] = outputs
        return {path: jnp.var(output, axis=(0, 1, 2)) for path, output in outputs.items()}

    return order, run


def mean(layers: dict[str, Misfit]) -> float:
    """The mean over all layers: one number for a reading."""
    return float(np.mean([layer.median for layer in layers.values()]))


def norms_of(tensors: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """BatchNorm's path -> its scale, bias, mean and var, in the file's order."""
    modules = (key.partition("/")[2].rpartition("/")[0] for key in tensors if key.endswith("/var"))
    norms: dict[str, dict[str, np.ndarray]] = {module: {} for module in modules}
    for key, tensor in tensors.items():
        module, _, leaf = key.partition("/")[2].rpartition("/")
        if module in norms:
            norms[module][leaf] = tensor
    return norms
