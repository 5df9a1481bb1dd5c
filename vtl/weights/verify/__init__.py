"""Is a weight file a working network, and read the right way? The file itself gives evidence.

Each way to read the file, with other pixels, another stride, padding or eps, gets a misfit
(misfit.py), and the least one tells what is wrong. Statistics don't tell red from blue; what the
network calls drawn oranges and lemons does. A known file is compared with the recorded outputs of
its own framework (golden.py).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from vtl.models.architecture import Architecture
from vtl.preprocessing import CAFFE, TORCHVISION, Preprocessing, normalise
from vtl.weights import network, sources
from vtl.weights.verify import golden, misfit, pictures

PIXELS = {
    "torchvision": TORCHVISION,
    "caffe": CAFFE,
    "inception": dataclasses.replace(TORCHVISION, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "unit": dataclasses.replace(TORCHVISION, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
}
"""The pixels that networks are trained on in practice."""

DESCRIPTIONS = {
    "torchvision": "RGB/255 with torchvision's mean and std",
    "caffe": "caffe BGR, 0..255 less the mean",
    "inception": "RGB in -1..1",
    "unit": "RGB in 0..1",
}
_PADDINGS = {"torch": "torch's", "same": "TensorFlow's SAME, which vtl does not support"}

NUM_FRUIT = 12
BETTER = 0.85
"""Another way to read the file is better if its misfit is below this share of the given one's."""
MAX_MISFIT = 0.5
"""Beyond it the statistics are of no photos: a factor of 1.6 in the median channel."""
MARGIN_NATS = 0.5
"""By how much another channel order must raise the mean log-probability of the right fruit."""


class Finding(NamedTuple):
    """One line of the verdict."""

    kind: Literal["good", "note", "fault"]
    text: str


def verify(weights: sources.Weights) -> list[Finding]:
    """All findings about `weights`.

    Raises:
        UserError: tensors are missing or misshapen.
    """
    findings = static(weights)
    if any(finding.kind == "fault" for finding in findings):
        return findings
    if golden.is_known(weights):
        return [*findings, _golden(weights)]
    given = misfit.Reading(weights.preprocessing, weights.architecture)
    best, behaviour = _behaviour(weights, given)
    if weights.classes:  # it may have been trained on pictures that are no photos
        return findings + _as_notes(behaviour)
    return findings + behaviour + _names(weights, best)


def _as_notes(behaviour: list[Finding]) -> list[Finding]:
    """Findings on photos about a network that may know no photos: its faults are only notes."""
    faults = [finding for finding in behaviour if finding.kind != "good"]
    if not faults:
        return behaviour
    notes = [Finding("note", f"judged by photos, {finding.text}") for finding in faults]
    text = "that means nothing if it was trained on other pictures, such as the demo's digits"
    return [*notes, Finding("note", text)]


# What the tensors say by themselves


def static(weights: sources.Weights) -> list[Finding]:
    """What is wrong or unusual about the tensors, without running the network."""
    findings = []
    if weights.architecture.num_classes is None:
        findings.append(Finding("note", "top missing: there is no head, so it names no classes"))
    elif not weights.architecture.has_plain_head:
        text = "the head is not torchvision's: programs that load it as such get other scores"
        findings.append(Finding("note", text))
    network.complete(weights)  # UserError if tensors are missing or misshapen
    norms = misfit.norms_of(weights.tensors)
    for name, tensor in weights.tensors.items():
        if not np.isfinite(tensor).all():
            findings.append(Finding("fault", f"{name} holds NaN or infinity"))
        elif name.endswith("/var") and tensor.min() < 0:
            findings.append(Finding("fault", f"{name} holds negative variances"))
        elif name.endswith("/kernel") and np.ptp(tensor) == 0:
            findings.append(Finding("fault", f"{name} is {tensor.flat[0]:g} everywhere"))
    untouched = [
        name for name, norm in norms.items() if _is(norm["mean"], 0) and _is(norm["var"], 1)
    ]
    if untouched:
        which = "all" if len(untouched) == len(norms) else f"{len(untouched)} of {len(norms)}"
        if all(_is(norms[name]["bias"], 0) for name in untouched):
            cause = "it was never trained"
        else:
            cause = "BatchNorm was folded into the convolutions, or its statistics were lost"
        text = f"mean 0 and variance 1 in {which} BatchNorms, from {untouched[0]} on: {cause}"
        findings.append(Finding("fault", text))
    dead = sum(int(np.sum(norm["var"] == 0)) for norm in norms.values())
    if dead:
        findings.append(Finding("note", f"{dead} channels never varied in training"))
    return findings


def _is(tensor: np.ndarray, value: float) -> bool:
    return bool(np.all(tensor == value))


# What it does with photos


def _alternatives(reading: misfit.Reading) -> dict[str, misfit.Reading]:
    """What else the file could be, in words -> how to read it then; one change at a time."""
    given, alternatives = reading.preprocessing, {}
    for name, pixels in PIXELS.items():
        changed = with_pixels(given, pixels)
        if changed != given:
            text = f"runs best as {DESCRIPTIONS[name]}: the given preprocessing ({describe(given)})"
            alternatives[f"{text} is probably wrong"] = reading._replace(preprocessing=changed)
    exchanged = _other_channels(given)
    text = f"runs best as {exchanged.channels.upper()}, not as {given.channels.upper()}"
    alternatives[text] = reading._replace(preprocessing=exchanged)
    for text, architecture in reading.architecture.alternatives().items():
        alternatives[text] = reading._replace(architecture=architecture)
    other = "same" if reading.padding == "torch" else "torch"
    text = f"padding looks like {_PADDINGS[other]}, not like {_PADDINGS[reading.padding]}"
    alternatives[text] = reading._replace(padding=other)
    return alternatives


def with_pixels(given: Preprocessing, pixels: Preprocessing) -> Preprocessing:
    """`given` with the channels, scale, mean and std of `pixels`."""
    return dataclasses.replace(
        given, channels=pixels.channels, scale=pixels.scale, mean=pixels.mean, std=pixels.std
    )


def _other_channels(given: Preprocessing) -> Preprocessing:
    """Red and blue exchanged, each with its mean."""
    other = {"rgb": "bgr", "bgr": "rgb"}[given.channels]
    return dataclasses.replace(given, channels=other, mean=given.mean[::-1], std=given.std[::-1])


def describe(given: Preprocessing) -> str:
    """The pixels that a network gets, in a few words."""
    for name, pixels in PIXELS.items():
        if with_pixels(given, pixels) == given:
            return DESCRIPTIONS[name]
    mean, std = (", ".join(f"{x:g}" for x in values) for values in (given.mean, given.std))
    return f"{given.channels.upper()} times {given.scale:g}, mean {mean}, std {std}"


def _behaviour(
    weights: sources.Weights, given: misfit.Reading
) -> tuple[misfit.Reading, list[Finding]]:
    """The reading of least misfit, reached by one change at a time, and what that says."""
    best, findings = given, []
    layers = misfit.misfits(weights, given)
    least = misfit.mean(layers)
    swapped = _swapped(weights, layers)
    if swapped:
        return given, [Finding("fault", swapped)]
    while True:
        tried = {
            text: (reading, misfit.misfits(weights, reading))
            for text, reading in _alternatives(best).items()
        }
        text = min(tried, key=lambda text: misfit.mean(tried[text][1]))
        reading, other_layers = tried[text]
        other = misfit.mean(other_layers)
        if not other < BETTER * least:
            break
        findings.append(Finding("fault", f"{text} (misfit {other:.2f} instead of {least:.2f})"))
        best, layers, least = reading, other_layers, other
    outlier = _outlier(layers)
    if least > MAX_MISFIT:
        text = f"its statistics fit photos in no preprocessing that vtl knows (misfit {least:.2f})"
        findings.append(Finding("fault", text))
    elif outlier:
        norm = misfit.norm_by_conv(weights.architecture)[outlier]
        text = f"{norm}'s statistics are not what {outlier} gives on photos"
        findings.append(Finding("fault", text))
    elif not findings:
        text = (
            f"its BatchNorm statistics fit photos as {describe(given.preprocessing)}, "
            f"{given.architecture.details} (misfit {least:.2f})"
        )
        findings.append(Finding("good", text))
    return best, findings


def _outlier(layers: dict[str, misfit.Misfit]) -> str | None:
    """The first convolution whose misfit stands out from those before it."""
    before = 0.3
    for conv, layer in layers.items():
        if layer.median > 2.5 * before:
            return conv
        before = max(before, layer.median)
    return None


def _swapped(weights: sources.Weights, layers: dict[str, misfit.Misfit]) -> str | None:
    """In words, that the outlier's output fits another layer's BatchNorm; None if it does not."""
    outlier = _outlier(layers)
    if outlier is None:
        return None
    layer, norm = layers[outlier], misfit.norm_by_conv(weights.architecture)[outlier]
    distances = {
        name: misfit.distance(layer.log_measured, tensors["var"])
        for name, tensors in misfit.norms_of(weights.tensors).items()
        if name != norm and tensors["var"].shape == layer.log_measured.shape
    }
    nearest = min(distances, key=lambda name: distances[name], default=None)
    if nearest is None or distances[nearest] > layer.median / 2:
        return None
    return f"{norm} and {nearest} are swapped: {outlier}'s output on photos fits {nearest}"


def _golden(weights: sources.Weights) -> Finding:
    wrong, worst = golden.compare(weights)
    name, framework = golden.origin(weights)
    if wrong:
        text = f"{wrong} is the first block to differ from {framework}'s (by {worst:.0e} at most)"
        return Finding("fault", text)
    return Finding(
        "good", f"a known file ({name}): its blocks agree with {framework}'s to {worst:.0e}"
    )


@functools.cache
def _log_probs(
    architecture: Architecture,
) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    model = network.make_model(architecture)
    return jax.jit(lambda v, x: jax.nn.log_softmax(model.apply(v, x, norms_by_batch=())[0]))


def _names(weights: sources.Weights, reading: misfit.Reading) -> list[Finding]:
    """What the head calls the drawn fruit, in the reading's channel order and in the other."""
    if weights.architecture.num_classes != 1000:
        text = "red and blue can't be told apart without ImageNet's 1,000 classes"
        return [Finding("note", text)]
    given = reading.preprocessing
    exchanged = _other_channels(given)
    variables = network.as_published(weights)[1]
    fruit, classes = pictures.fruit(NUM_FRUIT, given.crop_size)

    def log_probs(preprocessing: Preprocessing) -> np.ndarray:
        return np.asarray(
            _log_probs(reading.architecture)(variables, normalise(fruit, preprocessing))
        )

    rows = np.arange(NUM_FRUIT)
    as_given = log_probs(given)
    mean_given = float(np.mean(as_given[rows, classes]))
    mean_exchanged = float(np.mean(log_probs(exchanged)[rows, classes]))
    if mean_exchanged > mean_given + MARGIN_NATS:
        text = (
            f"runs best as {exchanged.channels.upper()}, not as {given.channels.upper()}: so it "
            f"names oranges and lemons better (mean log-probability {mean_exchanged:.1f} instead "
            f"of {mean_given:.1f})"
        )
        return [Finding("fault", text)]
    right = int(np.sum(as_given.argmax(axis=1) == classes))
    text = f"names {right} of {NUM_FRUIT} drawn oranges and lemons right"
    return [Finding("good" if 2 * right > NUM_FRUIT else "note", text)]
