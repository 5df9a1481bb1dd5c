"""Our ResNet-50 and EfficientNet-Lite0 against the recorded activations of PyTorch's."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from experiments.make import golden_activations as golden
from tests.references import blocks, recipe
from vtl.models import efficientnet_lite, resnet
from vtl.preprocessing import TORCHVISION, normalise
from vtl.weights import convert, formats, network

WHY = """
From the first block named here on, the network no longer computes what PyTorch's does.
Its padding, strides, epsilon, names or the conversion changed, and pretrained weights would give
wrong features without an error. If you changed the recipe or the image size on purpose, and only
then, write the file again with `python -m experiments.make.golden_activations`, which runs PyTorch.
"""


ARCHITECTURES = {
    "resnet50": resnet.Architecture(50, golden.WIDTH, "v1.5", 1e-5, num_classes=golden.NUM_CLASSES),
    "efficientnet_lite0": efficientnet_lite.Architecture(
        size=0, width=golden.WIDTH, num_classes=golden.NUM_CLASSES
    ),
}
NUM_VARIABLES = {"resnet50": 267, "efficientnet_lite0": 247}
NUM_OUTPUTS = {"resnet50": 16 + 3, "efficientnet_lite0": 16 + 4}
"""The blocks; the stem, of the second the last convolution, the features, the logits."""


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def recorded(name):
    with np.load(golden.PATHS[name], allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def built(name):
    architecture = ARCHITECTURES[name]
    shapes = network.shapes_of(network.make_model(architecture))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    assert len(traverse_util.flatten_dict(zeros)) == NUM_VARIABLES[name]
    named = {
        name: tensor.shape for name, tensor in convert.from_variables(zeros, architecture).items()
    }
    tensors = recipe.random_state_dict(named, golden.SEED)
    file = formats.WeightsFile(golden.PATHS[name], "safetensors", tensors, {})
    return tensors, *blocks.build(*convert.canonical(file))


def test_the_recipe_still_draws_the_same_weights(built, recorded):
    assert golden.checksum(built[0]) == pytest.approx(float(recorded["checksum"]), rel=1e-12), (
        "The recipe draws other weights, or the variables have other names or shapes, so the "
        "activations were not compared. If you changed that on purpose, run "
        "`python -m experiments.make.golden_activations`."
    )


KINDS = ("noise", "photo")


@pytest.fixture(scope="module")
def outputs(built, recorded):
    """Of an image of each kind."""
    _, model, variables = built
    images = np.concatenate([recipe.noise(1, golden.SIZE, golden.SEED), recorded["photo"]])
    return blocks.outputs(model, variables, np.asarray(normalise(images, TORCHVISION)))


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_give_what_pytorchs_give(kind, name, outputs, recorded):
    assert len(outputs) == NUM_OUTPUTS[name]
    beyond = {}
    for block, of_images in outputs.items():
        output = of_images[[KINDS.index(kind)]]
        sample, largest, mean = (
            recorded[f"{kind}/{block}/{what}"] for what in ("sample", "max", "mean")
        )
        activations = output.ravel()[golden.positions(block, output.size)]
        error = max(
            np.abs(activations - sample).max(),
            abs(np.abs(output).max() - largest),
            abs(output.mean() - mean),
        )
        if not error < 1e-4 * largest:
            beyond[block] = f"{error / largest:.1e}"
    assert not beyond, f"{kind}: off by more than 1e-4 of the block's largest: {beyond}\n{WHY}"
