"""What vtl itself computes: the probabilities that every exported file must give."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vtl import decisions
from vtl.errors import UserError
from vtl.preprocessing import normalise
from vtl.untrusted import printable
from vtl.weights import heads, network
from vtl.weights.sources import Weights

BATCH = 16


class Outputs(NamedTuple):
    """Probabilities and logits [N, C], float32, the logits before calibration."""

    probabilities: np.ndarray
    logits: np.ndarray


def joined(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of several batches, one after the other."""
    return Outputs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


Predict = Callable[[np.ndarray], Outputs]
"""uint8 photos [N, H, W, 3] -> what a network says of them."""


def load(name: str, trunk: str) -> Weights:
    """A finished run's, a file's or a source's network, complete and with a head.

    Raises:
        UserError: there is none, it can't be read, or it has no head.
    """
    weights = heads.load_network(name, trunk=trunk)
    if weights.architecture.num_classes is None:
        raise UserError(
            f"{printable(weights.path)} has no head, so there are no probabilities to export\n"
            "Give a finished run, or weights with their head."
        )
    network.as_published(weights)
    return weights


def function(weights: Weights) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """A traceable function: images [N, S, S, 3] uint8 -> probabilities and logits [N, C]."""
    model, variables = network.as_published(weights)
    activation = jax.nn.sigmoid if weights.multi_label else jax.nn.softmax
    own = weights.decisions

    def call(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        pixels = normalise(images, weights.preprocessing)
        logits, _ = model.apply(variables, pixels, norms_by_batch=())
        calibrated = logits
        if own:
            slopes, intercepts = (
                jnp.asarray(numbers, jnp.float32) for numbers in (own.slopes, own.intercepts)
            )
            calibrated = logits * slopes + intercepts
        return activation(calibrated), logits

    return call


def predictor(weights: Weights) -> Predict:
    """Our own outputs, compiled once: with the logits' products in full float32 everywhere."""
    model, variables = network.as_published(weights)

    @jax.jit
    def logits_of(images: jax.Array) -> jax.Array:
        pixels = normalise(images, weights.preprocessing)
        return model.apply(variables, pixels, norms_by_batch=())[0]

    def predict(images: np.ndarray) -> Outputs:
        parts = []
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            size = min(BATCH, len(images))
            padded = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), axis=0)])
            with jax.default_matmul_precision("highest"):
                parts.append(np.asarray(logits_of(padded))[: len(batch)])
        logits = np.concatenate(parts)
        return Outputs(_probabilities(logits, weights), logits)

    return predict


def _probabilities(logits: np.ndarray, weights: Weights) -> np.ndarray:
    if weights.decisions:
        return decisions.probabilities(
            logits, weights.decisions, one_label_each=not weights.multi_label
        )
    activation = jax.nn.sigmoid if weights.multi_label else jax.nn.softmax
    return np.asarray(activation(logits))
