"""Our ResNet-50 against the recorded activations of PyTorch's."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from experiments.make import golden_activations as golden
from tests.references import blocks, recipe
from vtl.models.resnet import Architecture
from vtl.preprocessing import TORCHVISION, normalise
from vtl.weights import convert, formats, network

WHY = """
From the first block named here on, the network no longer computes what PyTorch's ResNet-50 does.
Its padding, strides, epsilon, names or the conversion changed, and pretrained weights would give
wrong features without an error. If you changed the recipe or the image size on purpose, and only
then, write the file again with `python -m experiments.make.golden_activations`, which runs PyTorch.
"""


@pytest.fixture(scope="module")
def recorded():
    with np.load(golden.PATH, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def built():
    architecture = Architecture(50, golden.WIDTH, "v1.5", 1e-5, num_classes=golden.NUM_CLASSES)
    shapes = network.shapes_of(network.make_model(architecture))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    assert len(traverse_util.flatten_dict(zeros)) == 267
    named = {
        name: tensor.shape for name, tensor in convert.from_variables(zeros, architecture).items()
    }
    tensors = recipe.random_state_dict(named, golden.SEED)
    file = formats.WeightsFile(golden.PATH, "safetensors", tensors, {})
    return tensors, *blocks.build(*convert.canonical(file))


def test_the_recipe_still_draws_the_same_weights(built, recorded):
    assert golden.checksum(built[0]) == pytest.approx(float(recorded["checksum"]), rel=1e-12), (
        "The recipe draws other weights, or the variables have other names or shapes, so the "
        "activations were not compared. If you changed that on purpose, run "
        "`python -m experiments.make.golden_activations`."
    )


@pytest.mark.parametrize("kind", ["noise", "photo"])
def test_blocks_give_what_pytorchs_give(kind, built, recorded):
    _, model, variables = built
    images = recorded["photo"]
    if kind == "noise":
        images = recipe.noise(1, golden.SIZE, golden.SEED)
    outputs = blocks.outputs(model, variables, np.asarray(normalise(images, TORCHVISION)))
    assert len(outputs) == 19
    beyond = {}
    for name, output in outputs.items():
        sample, largest, mean = (
            recorded[f"{kind}/{name}/{what}"] for what in ("sample", "max", "mean")
        )
        activations = output.ravel()[golden.positions(name, output.size)]
        error = max(
            np.abs(activations - sample).max(),
            abs(np.abs(output).max() - largest),
            abs(output.mean() - mean),
        )
        if not error < 1e-4 * largest:
            beyond[name] = f"{error / largest:.1e}"
    assert not beyond, f"{kind}: off by more than 1e-4 of the block's largest: {beyond}\n{WHY}"
