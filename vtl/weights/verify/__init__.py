"""Is a weight file a working network, read right? The file itself is the witness.

Each way to read the file, as other pixels, another stride, padding or eps, gets a misfit
(misfit.py), and the least one tells what is wrong. Red and blue, which statistics don't tell apart,
are told apart by what ImageNet's names call drawn oranges. A file that is known is held against
what its own framework made of it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from vtl.models.resnet import DEPTHS, EPSILON
from vtl.preprocessing import CAFFE, TORCHVISION, Preprocessing, normalise
from vtl.weights import convert, layouts, network, sources
from vtl.weights.verify import golden, misfit, pictures

PIXELS = {
    "torchvision": TORCHVISION,
    "caffe": CAFFE,
    "inception": dataclasses.replace(TORCHVISION, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "unit": dataclasses.replace(TORCHVISION, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
}
"""What networks are fed in practice: -1..1 is `inception`, 0..1 is `unit`."""

DESCRIPTIONS = {
    "torchvision": "RGB/255 with torchvision's mean and std",
    "caffe": "caffe BGR, 0..255 less the mean",
    "inception": "RGB in -1..1",
    "unit": "RGB in 0..1",
}
_PADDINGS = {"torch": "torch's (vtl's)", "same": "TensorFlow's SAME, which vtl does not do"}

NUM_FRUIT = 12
BETTER = 0.85
"""A way to read the file is preferred where its misfit is below this part of the given one's."""
STRANGE = 0.5
"""A misfit beyond which the statistics are of no photos: a factor of 1.6 in the median channel."""
MARGIN_NATS = 0.5
"""By how much another channel order must raise the mean log-probability of the fruit's names."""


class Finding(NamedTuple):
    """One line of the verdict."""

    kind: Literal["good", "note", "fault"]
    text: str


def verify(weights: sources.Weights) -> list[Finding]:
    """All findings about `weights`.

    Raises:
        UserError: the tensors don't make up the network.
    """
    findings = static(weights)
    if any(finding.kind == "fault" for finding in findings):
        return findings
    if golden.is_known(weights):
        return [*findings, _golden(weights)]
    own = weights.architecture
    given = misfit.Reading(weights.preprocessing, own.variant, own.epsilon)
    best, behaviour = _behaviour(weights, given)
    if weights.classes:  # of pictures of its own, perhaps no photos
        hints = [
            finding if finding.kind == "good" else Finding("note", f"as for photos, {finding.text}")
            for finding in behaviour
        ]
        if any(hint.kind == "note" for hint in hints):
            text = "which means nothing if its own pictures are no photos, as the demo's digits"
            hints.append(Finding("note", text))
        return findings + hints
    return findings + behaviour + _names(weights, best)


# What the tensors say by themselves


def static(weights: sources.Weights) -> list[Finding]:
    """What is wrong or unusual about the tensors, without running the network."""
    findings = []
    if weights.architecture.num_classes is None:
        findings.append(Finding("note", "top missing: there is no head, so it names no classes"))
    network.complete(weights)  # UserError where tensors are missing or misshapen
    norms = misfit.norms_of(weights.tensors)
    for name, tensor in weights.tensors.items():
        if not np.isfinite(tensor).all():
            findings.append(Finding("fault", f"{name} holds NaN or infinity"))
        elif name.endswith("/var") and tensor.min() < 0:
            findings.append(Finding("fault", f"{name} holds negative variances"))
        elif name.endswith("/kernel") and np.ptp(tensor) == 0:
            findings.append(Finding("fault", f"{name} is {tensor.flat[0]:g} everywhere"))
    untouched = [norm for norm, t in norms.items() if _is(t["mean"], 0) and _is(t["var"], 1)]
    if untouched:
        of = "all" if len(untouched) == len(norms) else f"{len(untouched)} of {len(norms)}"
        plain = all(_is(norms[norm]["bias"], 0) for norm in untouched)
        cause = (
            "it was never trained"
            if plain
            else "BatchNorm was folded into the convolutions, or its statistics were lost"
        )
        text = f"mean 0 and variance 1 in {of} BatchNorms, from {untouched[0]} on: {cause}"
        findings.append(Finding("fault", text))
    dead = sum(int(np.sum(t["var"] == 0)) for t in norms.values())
    if dead:
        findings.append(Finding("note", f"{dead} channels never varied in training"))
    return findings


def _is(tensor: np.ndarray, value: float) -> bool:
    return bool(np.all(tensor == value))


# What it does with photos


def _alternatives(reading: misfit.Reading, depth: int) -> dict[str, misfit.Reading]:
    """What else the file could be -> how to read it then; one change at a time."""
    given, found = reading.preprocessing, {}
    for name, pixels in PIXELS.items():
        changed = with_pixels(given, pixels)
        if changed != given:
            text = f"runs best as {DESCRIPTIONS[name]}: the given preprocessing ({describe(given)})"
            found[f"{text} is probably wrong"] = reading._replace(preprocessing=changed)
    exchanged = _other_channels(given)
    text = f"runs best as {exchanged.channels.upper()}, and not as {given.channels.upper()}"
    found[text] = reading._replace(preprocessing=exchanged)
    if DEPTHS[depth].bottleneck:
        other = "v1" if reading.variant == "v1.5" else "v1.5"
        where = {"v1": "the first 1x1", "v1.5": "the 3x3"}[other]
        text = f"stride looks like {other}, in {where} convolution, and not like {reading.variant}"
        found[text] = reading._replace(variant=other)
    other = "same" if reading.padding == "torch" else "torch"
    text = f"padding looks like {_PADDINGS[other]}, and not like {_PADDINGS[reading.padding]}"
    found[text] = reading._replace(padding=other)
    for epsilon in (1e-3, EPSILON["v1.5"]):
        if not 0.5 < epsilon / reading.epsilon < 2:
            text = f"eps looks like {epsilon:g}, and not like {reading.epsilon:g}"
            found[text] = reading._replace(epsilon=epsilon)
    return found


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
    """What the network is fed, in a few words."""
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
    exchanged = _exchanged(weights, layers)
    if exchanged:
        return given, [Finding("fault", exchanged)]
    while True:
        tried = {
            text: (reading, misfit.misfits(weights, reading))
            for text, reading in _alternatives(best, weights.architecture.depth).items()
        }
        text, (reading, found) = min(tried.items(), key=lambda item: misfit.mean(item[1][1]))
        if not misfit.mean(found) < BETTER * least:
            break
        findings.append(
            Finding("fault", f"{text} (misfit {misfit.mean(found):.2f} instead of {least:.2f})")
        )
        best, layers, least = reading, found, misfit.mean(found)
    stranger = _stranger(layers)
    if least > STRANGE:
        text = f"its statistics are of no photos that we know to prepare (misfit {least:.2f})"
        findings.append(Finding("fault", text))
    elif stranger:
        text = (
            f"{layouts.norm_after(stranger)} holds other statistics than {stranger} gives on photos"
        )
        findings.append(Finding("fault", text))
    elif not findings:
        text = (
            f"its BatchNorm statistics are those of photos as {describe(given.preprocessing)}, "
            f"stride {given.variant}, eps {given.epsilon:g} (misfit {least:.2f})"
        )
        findings.append(Finding("good", text))
    return best, findings


def _stranger(layers: dict[str, misfit.Misfit]) -> str | None:
    """The first convolution whose misfit stands out from those before it."""
    before = 0.3
    for conv, layer in layers.items():
        if layer.median > 2.5 * before:
            return conv
        before = max(before, layer.median)
    return None


def _exchanged(weights: sources.Weights, layers: dict[str, misfit.Misfit]) -> str | None:
    """That the stranger's statistics would fit another layer's BatchNorm, in words."""
    stranger = _stranger(layers)
    if stranger is None:
        return None
    layer, own = layers[stranger], layouts.norm_after(stranger)
    others = {
        norm: misfit.apart(layer.log_found, tensors["var"])
        for norm, tensors in misfit.norms_of(weights.tensors).items()
        if norm != own and tensors["var"].shape == layer.log_found.shape
    }
    norm = min(others, key=lambda name: others[name], default=None)
    if norm is None or others[norm] > layer.median / 2:
        return None
    return f"{own} and {norm} are swapped: what {stranger} gives on photos fits the latter"


def _golden(weights: sources.Weights) -> Finding:
    wrong, worst = golden.compare(weights)
    name, framework = golden.origin(weights)
    if wrong:
        text = (
            f"{wrong} is the first block that does not give what {framework}'s gave ({worst:.0e})"
        )
        return Finding("fault", text)
    text = f"a known file ({name}), whose blocks give what {framework}'s gave to {worst:.0e}"
    return Finding("good", text)


@functools.cache
def _log_probs(
    architecture: convert.Architecture,
) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    model = network.make_model(architecture)
    return jax.jit(lambda v, x: jax.nn.log_softmax(model.apply(v, x, norms_by_batch=())[0]))


def _names(weights: sources.Weights, reading: misfit.Reading) -> list[Finding]:
    """What the head calls the drawn fruit, in the reading's channel order and in the other."""
    if weights.architecture.num_classes != 1000:
        return [Finding("note", "red and blue can't be told apart without ImageNet's 1,000 names")]
    given = reading.preprocessing
    swapped = _other_channels(given)
    own = dataclasses.replace(
        weights.architecture, variant=reading.variant, epsilon=reading.epsilon
    )
    variables = network.as_published(weights)[1]
    shown, classes = pictures.fruit(NUM_FRUIT, given.crop_size)
    log_probs = [_log_probs(own)(variables, normalise(shown, p)) for p in (given, swapped)]
    rows = np.arange(NUM_FRUIT)
    as_given, as_swapped = (float(np.mean(np.asarray(lp)[rows, classes])) for lp in log_probs)
    if as_swapped > as_given + MARGIN_NATS:
        text = (
            f"runs best as {swapped.channels.upper()}, and not as {given.channels.upper()}, in "
            f"which it does not know oranges by their colour (mean log-probability {as_given:.1f}, "
            f"{as_swapped:.1f} with red and blue exchanged)"
        )
        return [Finding("fault", text)]
    right = int(np.sum(np.asarray(log_probs[0]).argmax(axis=1) == classes))
    text = f"names {right} of {NUM_FRUIT} drawn oranges and lemons right"
    return [Finding("good" if 2 * right > NUM_FRUIT else "note", text)]
