"""The outputs of our network block by block, to compare with a reference's."""

import dataclasses
import re

import jax
import numpy as np

from vtl.models.architecture import Architecture
from vtl.models.resnet import STAGES, ResNet
from vtl.weights import convert, network

Outputs = dict[str, np.ndarray]
"""stem (after the max-pool) and layerS_B [B, H, W, C], features [B, C], logits [B, classes]."""


def build(
    tensors: dict[str, np.ndarray], architecture: Architecture, head: dict | None = None
) -> tuple[ResNet, dict]:
    """The network of a file's tensors, and its variables."""
    if head is not None:
        architecture = dataclasses.replace(architecture, num_classes=len(head["bias"]))
    model = network.make_model(architecture)
    return model, convert.to_variables(tensors, network.shapes_of(model), head=head)


def outputs(model: ResNet, variables: dict, images: np.ndarray) -> Outputs:
    """Normalised images [B, H, W, 3] -> every block's output, in float32 at full precision."""

    def apply(variables: dict, images: jax.Array) -> dict[str, jax.Array]:
        logits, outputs = model.apply(variables, images, norms_by_batch=())
        blocks = {
            name: output
            for name, output in outputs.items()
            if name not in (*STAGES, "seen", "views")
        }
        return blocks | {"logits": logits}

    with jax.default_matmul_precision("highest"):
        by_name = jax.jit(apply)(variables, images)
    # jit sorts names; a failure should name the first wrong block first.
    ends = {"stem": 0, "features": 2, "logits": 3}
    names = sorted(by_name, key=lambda name: (ends.get(name, 1), _natural(name)))
    return {name: np.asarray(by_name[name]) for name in names}


def _natural(name: str) -> list[int]:
    """`layer3_10` comes after `layer3_9`."""
    return [int(digits) for digits in re.findall(r"\d+", name)]


def relative_errors(ours: Outputs, theirs: Outputs) -> dict[str, float]:
    """For each block, the largest absolute difference over the reference's largest value."""
    assert ours.keys() == theirs.keys()
    errors = {}
    for name, reference in theirs.items():
        assert ours[name].shape == reference.shape, name
        largest = np.abs(reference).max()
        assert 0 < largest < 1e6, f"{name}: the reference vanishes or blows up ({largest})"
        errors[name] = float(np.abs(ours[name] - reference).max() / largest)
    return errors


def assert_close(ours: Outputs, theirs: Outputs, bound: float = 1e-4) -> None:
    """Assert that every block is within `bound` of its largest value; name those that are not."""
    errors = relative_errors(ours, theirs)
    beyond = {name: f"{error:.1e}" for name, error in errors.items() if not error < bound}
    assert not beyond, f"more than {bound:g} of the block's largest value apart: {beyond}"
