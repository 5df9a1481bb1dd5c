"""What a network answers: what it calls drawn fruit, and whether it tells two photos apart."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vtl.models.architecture import Architecture
from vtl.preprocessing import Preprocessing, normalise
from vtl.weights import network, sources
from vtl.weights.verify import misfit, neighbours, pictures
from vtl.weights.verify.finding import Finding, Kind
from vtl.weights.verify.pixels import describe, other_pixels

NUM_FRUIT = 12
MARGIN_NATS = 0.5
"""By how much other pixels must raise the mean log-probability of the right fruit, and above
chance."""
MIN_GAP = 0.8
"""Between parts of one photo and of two. A ResNet-50's is 1.46 in the right pixels, 0.5 or less of
random weights or without its statistics."""
MARGIN_GAP = 0.25
"""By how much other pixels must raise the gap. A ResNet-50's falls from 1.46 to 1.07 on a wrong
scale, and by less than 0.1 with another mean or order of channels."""


@functools.cache
def _log_probs(
    architecture: Architecture,
) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    model = network.make_model(architecture)
    return jax.jit(lambda v, x: jax.nn.log_softmax(model.apply(v, x, norms_by_batch=())[0]))


NO_NAMES = Finding("note", "red and blue can't be told apart without ImageNet's 1,000 classes")


def names(
    weights: sources.Weights, reading: misfit.Reading, others: dict[str, Preprocessing]
) -> list[Finding]:
    """What the head calls the drawn fruit as it is read, and in other pixels; [] without names."""
    if weights.architecture.num_classes != 1000:
        return []
    given = reading.preprocessing
    variables = network.as_published(weights)[1]
    fruit, classes = pictures.fruit(NUM_FRUIT, given.crop_size)
    rows = np.arange(NUM_FRUIT)

    def log_probs(preprocessing: Preprocessing) -> np.ndarray:
        pixels = normalise(fruit, preprocessing)
        return np.asarray(_log_probs(reading.architecture)(variables, pixels))

    def mean_of_right(log_probs: np.ndarray) -> float:
        return float(np.mean(log_probs[rows, classes]))

    as_given = log_probs(given)
    mean_given = mean_of_right(as_given)
    means = {text: mean_of_right(log_probs(changed)) for text, changed in others.items()}
    best = max(means, key=lambda text: means[text])
    if means[best] > max(mean_given + MARGIN_NATS, -math.log(1000)):
        text = (
            f"{best}: so it names oranges and lemons better (mean log-probability "
            f"{means[best]:.1f} instead of {mean_given:.1f})"
        )
        return [Finding("fault", text)]
    right = int(np.sum(as_given.argmax(axis=1) == classes))
    text = f"names {right} of {NUM_FRUIT} drawn oranges and lemons right"
    return [Finding("good" if 2 * right > NUM_FRUIT else "note", text)]


def without_statistics(weights: sources.Weights, given: misfit.Reading) -> list[Finding]:
    """What its names of fruit say or, without them, whether it tells two photos apart."""
    others = other_pixels(given.preprocessing)
    named = names(weights, given, others)
    if named and named[0].kind != "note":
        return named
    gap = neighbours.measured(weights, given.preprocessing)
    gaps = {text: neighbours.measured(weights, changed) for text, changed in others.items()}
    best = max(gaps, key=lambda text: gaps[text])
    if gaps[best] > max(gap + MARGIN_GAP, MIN_GAP):
        text = f"{best}: so it tells two photos apart better (gap {gaps[best]:.2f}, not {gap:.2f})"
        return [*named, Finding("fault", text)]
    if gap < MIN_GAP:
        # Of a network with BatchNorm the statistics were lost; another may be no good at photos.
        kind: Kind = "note" if weights.architecture.batch_norm_epsilon is None else "fault"
        text = f"tells two photos apart no better than random weights (gap {gap:.2f})"
        return [*named, Finding(kind, text)]
    text = f"tells two photos apart as {describe(given.preprocessing)} (gap {gap:.2f})"
    limit = "that shows pixels on a wrong scale, but no other mean or order of channels"
    return [*named, Finding("good", text), Finding("note", limit)]
