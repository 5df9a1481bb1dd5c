"""Our ResNet-50 against activations that PyTorch's made, recorded by experiments."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from experiments.make import golden_activations as golden
from tests.references import blocks, recipe
from vtl.preprocessing import TORCHVISION, normalise
from vtl.weights import convert, formats, network

WHY = """
The network no longer computes what PyTorch's ResNet-50 does, from the first block named here on:
its padding, strides, epsilon, names or the conversion changed, and pretrained weights would give
wrong features without an error. Only if the recipe or the image size was changed on purpose, write
the file again with `python -m experiments.make.golden_activations`, which asks PyTorch anew.
"""


@pytest.fixture(scope="module")
def recorded():
    with np.load(golden.PATH, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def built():
    architecture = convert.Architecture(50, golden.WIDTH, "v1.5", 1e-5, golden.NUM_CLASSES)
    shapes = network.shapes_of(network.make_model(architecture))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    assert len(traverse_util.flatten_dict(zeros)) == 267
    named = {name: tensor.shape for name, tensor in convert.from_variables(zeros).items()}
    tensors = recipe.random_state_dict(named, golden.SEED)
    file = formats.WeightsFile(golden.PATH, "safetensors", tensors, {})
    return tensors, *blocks.build(*convert.canonical(file))


def test_recipe_draws_the_weights_it_drew(built, recorded):
    assert golden.checksum(built[0]) == pytest.approx(float(recorded["checksum"]), rel=1e-12), (
        "the recipe draws other weights, or the variables have other names or shapes: the "
        "activations were not compared. On purpose? `python -m experiments.make.golden_activations`"
    )


@pytest.mark.parametrize("kind", ["noise", "photo"])
def test_blocks_are_pytorchs(kind, built, recorded):
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
        found = output.ravel()[golden.positions(name, output.size)]
        error = max(
            np.abs(found - sample).max(),
            abs(np.abs(output).max() - largest),
            abs(output.mean() - mean),
        )
        if not error < 1e-4 * largest:
            beyond[name] = f"{error / largest:.1e}"
    assert not beyond, f"{kind}: apart by more than 1e-4 of the block's largest: {beyond}\n{WHY}"
