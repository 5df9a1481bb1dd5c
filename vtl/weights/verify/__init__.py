"""Is a weight file a working network, and read the right way? The file itself gives evidence.

Each way to read the file, with other pixels, another stride, padding or eps, gets a misfit
(misfit.py), and the least one tells what is wrong. Statistics don't tell red from blue; what the
network calls drawn oranges and lemons does. A network without BatchNorm, or whose BatchNorm is
folded into its convolutions, has no statistics: it is asked for those names or, without ImageNet's
classes, whether it tells two photos apart (neighbours.py). A known file is compared with the
recorded outputs of its own framework (golden.py).
"""

import numpy as np

from vtl.weights import network, sources
from vtl.weights.verify import answers, golden, misfit
from vtl.weights.verify.finding import Finding, Kind
from vtl.weights.verify.pixels import PIXELS as PIXELS
from vtl.weights.verify.pixels import describe, other_channels, other_pixels, runs_best_as
from vtl.weights.verify.pixels import with_pixels as with_pixels

_PADDINGS = {"torch": "torch's", "same": "TensorFlow's SAME, which vtl's ResNets don't have"}

BETTER = 0.85
"""Another way to read the file is better if its misfit is below this share of the given one's."""
MAX_MISFIT = 0.5
"""Beyond it the statistics are of no photos: a factor of 1.6 in the median channel."""


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
    if not has_statistics(weights):
        behaviour = answers.without_statistics(weights, given)
        return findings + (_as_notes(behaviour) if weights.classes else behaviour)
    best, behaviour = _behaviour(weights, given)
    if weights.classes:  # it may have been trained on pictures that are no photos
        return findings + _as_notes(behaviour)
    exchanged = other_channels(best.preprocessing)
    others = {runs_best_as(exchanged, best.preprocessing): exchanged}
    return findings + behaviour + (answers.names(weights, best, others) or [answers.NO_NAMES])


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
        text = "the head is not the published one: programs that load it as such get other scores"
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
            kind: Kind = "fault"
            cause = "it was never trained"
        else:
            # Where all are, what it does tells which.
            kind = "note" if len(untouched) == len(norms) else "fault"
            cause = "BatchNorm was folded into the convolutions, or its statistics were lost"
        text = f"mean 0 and variance 1 in {which} BatchNorms, from {untouched[0]} on: {cause}"
        findings.append(Finding(kind, text))
    dead = sum(int(np.sum(norm["var"] == 0)) for norm in norms.values())
    if dead:
        findings.append(Finding("note", f"{dead} channels never varied in training"))
    return findings


def has_statistics(weights: sources.Weights) -> bool:
    """Whether BatchNorms recorded what their convolutions give."""
    norms = misfit.norms_of(weights.tensors).values()
    return any(not (_is(norm["mean"], 0) and _is(norm["var"], 1)) for norm in norms)


def _is(tensor: np.ndarray, value: float) -> bool:
    return bool(np.all(tensor == value))


# What it does with photos


def _alternatives(reading: misfit.Reading) -> dict[str, misfit.Reading]:
    """What else the file could be, in words -> how to read it then; one change at a time."""
    alternatives = {
        text: reading._replace(preprocessing=changed)
        for text, changed in other_pixels(reading.preprocessing).items()
    }
    for text, architecture in reading.architecture.alternatives().items():
        alternatives[text] = reading._replace(architecture=architecture)
    if hasattr(reading.architecture, "padding"):
        return alternatives  # its own are among its alternatives
    other = "same" if reading.padding == "torch" else "torch"
    text = f"padding looks like {_PADDINGS[other]}, not like {_PADDINGS[reading.padding]}"
    alternatives[text] = reading._replace(padding=other)
    return alternatives


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
