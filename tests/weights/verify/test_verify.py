"""Plants faults in good weights and checks the diagnosis.

The good weights are random. Their statistics are those of the photos that `verify` shows them, and
their head knows its oranges and lemons. The thresholds are tested at the end, on real weights if
there are any.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from tests.weights.test_sample_photos import WEIGHTS as REAL
from vtl.models import layers, ops
from vtl.models.resnet import Architecture
from vtl.preprocessing import CAFFE, TORCHVISION, normalise
from vtl.weights import network, sources, verify
from vtl.weights.verify import answers, golden, misfit, pictures

SMALL = TORCHVISION.override(image_size=64)
TINY = Architecture(18, 0.125, "v1.5", 1e-5, num_classes=10)
LEAVES = ("params/{}/scale", "params/{}/bias", "batch_stats/{}/mean", "batch_stats/{}/var")


def drawn(architecture, kernel_scale=1.0):
    """Random tensors under our names; their statistics are of nothing."""
    shapes = network.shapes_of(network.make_model(architecture))
    rng, tensors = np.random.default_rng(0), {}
    for name, leaf in traverse_util.flatten_dict(shapes, sep="/").items():
        if name.endswith("/kernel"):
            spread = rng.lognormal(0, 1, leaf.shape[-1]) * kernel_scale
            deviation = spread * np.sqrt(2 / np.prod(leaf.shape[:-1]))
            tensors[name] = rng.normal(0, deviation, leaf.shape)
        else:
            low, high = {"scale": (0.5, 1.5), "var": (0.5, 2)}.get(name.split("/")[-1], (0, 0))
            tensors[name] = rng.uniform(low, high, leaf.shape)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def good(depth=50, epsilon=1e-5, kernel_scale=1.0, padding="torch"):
    """A ResNet of an eighth of the width that knows its photos, and oranges by their colour."""
    architecture = Architecture(depth, 0.125, "v1.5", epsilon, num_classes=1000)
    model = network.make_model(architecture)
    tensors = drawn(architecture, kernel_scale)
    variables = tree(tensors)
    norms = {"/".join(k[:-1]) for k in traverse_util.flatten_dict(variables["batch_stats"])}
    crops = normalise(pictures.photo_crops(misfit.NUM_CROPS, SMALL.crop_size), SMALL)

    def pad_same(call, arguments, options, context):
        conv = context.module
        if padding == "torch" or not isinstance(conv, layers.Conv) or conv.stride == 1:
            return call(*arguments, **options)
        return ops.convolve(arguments[0], conv.variables["params"]["kernel"], conv.stride, "same")

    @jax.jit
    def move(variables):
        with nn.intercept_methods(pad_same):
            return model.apply(variables, crops, norms_by_batch=norms, mutable=["batch_stats"])[1]

    moved = move(variables)["batch_stats"]
    variables["batch_stats"] = jax.tree.map(
        lambda old, new: (np.asarray(new) - 0.9 * old) / 0.1, variables["batch_stats"], moved
    )

    fruit, classes = pictures.fruit(answers.NUM_FRUIT, SMALL.crop_size)
    both = np.concatenate([fruit, fruit[..., ::-1]])
    features = np.asarray(
        jax.jit(lambda x: model.apply(variables, x, norms_by_batch=())[1]["features"])(
            normalise(both, SMALL)
        )
    )
    # The head says 10 for a fruit's own class and -10 for its picture in BGR.
    kernel = np.zeros_like(tensors["params/fc/kernel"])
    bias = np.zeros_like(tensors["params/fc/bias"])
    for c in (pictures.ORANGE, pictures.LEMON):
        targets = np.concatenate([np.where(classes == c, 10, -10), np.full(len(classes), -10)])
        centred = features - features.mean(axis=0)
        kernel[:, c] = np.linalg.lstsq(centred, targets - targets.mean(), rcond=1e-4)[0]
        bias[c] = targets.mean() - features.mean(axis=0) @ kernel[:, c]
    variables["params"]["fc"] = {"kernel": kernel, "bias": bias}
    tensors = {"/".join(k): v for k, v in traverse_util.flatten_dict(variables).items()}
    return as_weights(architecture, tensors)


def as_weights(architecture, tensors):
    return sources.Weights(
        name="good",
        path=None,
        sha256="0" * 64,
        tensors=tensors,
        architecture=architecture,
        preprocessing=SMALL,
        classes=None,
        multi_label=False,
        format="safetensors",
        dtypes=("float32",),
    )


def tree(tensors):
    return traverse_util.unflatten_dict({tuple(k.split("/")): v for k, v in tensors.items()})


def with_tensors(weights, **changes):
    changes = {name.replace("__", "/"): value for name, value in changes.items()}
    return dataclasses.replace(weights, tensors=weights.tensors | changes)


def with_architecture(weights, **changes):
    architecture = dataclasses.replace(weights.architecture, **changes)
    return dataclasses.replace(weights, architecture=architecture)


def swap(weights, one, other):
    """Swap two BatchNorms."""
    swapped = {}
    for leaf in LEAVES:
        first, second = leaf.format(one), leaf.format(other)
        swapped |= {first: weights.tensors[second], second: weights.tensors[first]}
    return dataclasses.replace(weights, tensors=weights.tensors | swapped)


def faults(weights):
    return [finding.text for finding in verify.verify(weights) if finding.kind == "fault"]


@pytest.fixture(scope="module")
def network_():
    return good()


@pytest.mark.full
def test_good_weights_have_no_fault(network_):
    findings = verify.verify(network_)
    assert [f.kind for f in findings] == ["good", "good"]
    for fact in ("RGB/255 with torchvision's mean and std", "v1.5 stride", "eps 1e-05"):
        assert fact in findings[0].text
    assert int(findings[1].text.split()[1]) >= 9


def test_wrong_preprocessing():
    network_ = good(depth=18)
    caffe = verify.with_pixels(network_.preprocessing, CAFFE)
    texts = faults(dataclasses.replace(network_, preprocessing=caffe))
    assert texts[0].startswith(
        "runs best as RGB/255 with torchvision's mean and std: the given preprocessing (caffe BGR, "
        "0..255 less the mean) is probably wrong"
    )
    unit = verify.with_pixels(network_.preprocessing, verify.PIXELS["unit"])
    texts = faults(dataclasses.replace(network_, preprocessing=unit))
    assert "the given preprocessing (RGB in 0..1) is probably wrong" in texts[0]


@pytest.mark.full
def test_wrong_stride(network_):
    texts = faults(with_architecture(network_, variant="v1"))
    assert texts[0].startswith("stride looks like v1.5's")
    assert "(misfit 0." in texts[0]


@pytest.mark.full
def test_wrong_padding():
    (text,) = faults(good(padding="same"))
    assert text.startswith("padding looks like TensorFlow's SAME")


@pytest.mark.full
def test_wrong_epsilon():
    weights = good(epsilon=1e-3, kernel_scale=0.05)
    assert faults(weights) == []
    texts = faults(with_architecture(weights, epsilon=1e-5))
    assert texts[0].startswith("eps looks like 0.001, not 1e-05")


@pytest.mark.full
def test_two_faults_at_once(network_):
    unit = verify.with_pixels(network_.preprocessing, verify.PIXELS["unit"])
    weights = with_architecture(network_, variant="v1")
    texts = faults(dataclasses.replace(weights, preprocessing=unit))
    assert len(texts) == 2
    assert {text.split()[0] for text in texts} == {"runs", "stride"}


@pytest.mark.full
def test_bgr_for_rgb(network_):
    kernel = network_.tensors["params/conv1/kernel"][:, :, ::-1]
    (text,) = faults(with_tensors(network_, params__conv1__kernel=kernel))
    assert text.startswith("runs best as BGR, not as RGB (misfit 0.")


@pytest.mark.full
def test_bgr_for_rgb_by_the_names_of_fruit(network_, monkeypatch):
    """As in real networks, whose statistics hardly change."""
    monkeypatch.setattr(verify, "BETTER", 0.0)
    monkeypatch.setattr(verify, "MAX_MISFIT", np.inf)
    kernel = network_.tensors["params/conv1/kernel"][:, :, ::-1]
    texts = faults(with_tensors(network_, params__conv1__kernel=kernel))
    assert texts[-1].startswith("runs best as BGR, not as RGB")
    assert "oranges and lemons" in texts[-1]


@pytest.mark.full
@pytest.mark.parametrize(
    ("one", "other"), [("layer1_0/bn1", "layer1_0/bn2"), ("layer3_1/bn1", "layer3_4/bn2")]
)
def test_swapped_norms(network_, one, other):
    texts = faults(swap(network_, one, other))
    assert texts[0].startswith(f"{one} and {other} are swapped")


@pytest.mark.full
def test_a_network_that_overflows_ends_the_search(network_):
    names = [f"params/layer{stage}_0/conv2/kernel" for stage in (1, 2, 3)]
    huge = {name: network_.tensors[name] * np.float32(1e30) for name in names}
    weights = dataclasses.replace(network_, tensors=network_.tensors | huge)
    assert faults(weights)[0].startswith("its statistics fit photos in no preprocessing")


@pytest.mark.full
def test_what_photos_say_of_a_network_with_classes_of_its_own_is_no_fault(network_):
    unit = verify.with_pixels(network_.preprocessing, verify.PIXELS["unit"])
    classes = tuple(map(str, range(1000)))
    note, caution = verify.verify(
        dataclasses.replace(network_, preprocessing=unit, classes=classes)
    )
    assert note.kind == caution.kind == "note"
    assert "other pictures" in caution.text
    assert "runs best as RGB/255 with torchvision's mean" in note.text


def test_top_missing():
    tensors = {k: v for k, v in drawn(TINY).items() if not k.startswith("params/fc")}
    (finding,) = verify.static(as_weights(dataclasses.replace(TINY, num_classes=None), tensors))
    assert finding.kind == "note"
    assert "no head" in finding.text


@pytest.mark.full
def test_never_trained():
    model = network.make_model(TINY)
    tensors = traverse_util.flatten_dict(jax.jit(lambda: network.initialise(model, 0))(), sep="/")
    assert faults(as_weights(TINY, jax.tree.map(np.asarray, tensors))) == [
        "mean 0 and variance 1 in all BatchNorms, from bn1 on: it was never trained"
    ]


def folded(weights):
    """The same network, its BatchNorms inside its convolutions."""
    tensors, epsilon = dict(weights.tensors), weights.architecture.epsilon
    for conv, norm in misfit.norm_by_conv(weights.architecture).items():
        scale, bias, mean, var = (weights.tensors[leaf.format(norm)] for leaf in LEAVES)
        multiplier = scale / np.sqrt(var + epsilon)
        tensors[f"params/{conv}/kernel"] = weights.tensors[f"params/{conv}/kernel"] * multiplier
        shift = bias - mean * multiplier
        idle = np.full_like(mean, np.sqrt(1 + epsilon)), shift, 0 * mean, np.ones_like(var)
        tensors |= {leaf.format(norm): tensor for leaf, tensor in zip(LEAVES, idle, strict=True)}
    return dataclasses.replace(weights, tensors=tensors)


def without_statistics(weights):
    """Mean 0 and variance 1, as if nobody had saved them."""
    lost = {
        name: np.full_like(tensor, name.endswith("/var"))
        for name, tensor in weights.tensors.items()
        if name.startswith("batch_stats/")
    }
    return dataclasses.replace(weights, tensors=weights.tensors | lost)


@pytest.mark.full
def test_folded_norms_that_work_are_a_note(network_):
    note, verdict = verify.verify(folded(network_))
    assert (note.kind, verdict.kind) == ("note", "good")
    assert "folded into the convolutions" in note.text
    assert "drawn oranges and lemons right" in verdict.text


@pytest.mark.full
def test_lost_statistics_are_a_fault(network_):
    biases = {
        name: tensor + 0.1
        for name, tensor in network_.tensors.items()
        if name.endswith("/bias") and "bn" in name
    }
    trained = dataclasses.replace(network_, tensors=network_.tensors | biases)
    (text,) = faults(without_statistics(trained))
    assert "tells two photos apart no better than random weights" in text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("params/layer2_0/conv1/kernel", np.nan, "holds NaN or infinity"),
        ("params/layer2_0/conv1/kernel", 0.0, "is 0 everywhere"),
        ("batch_stats/bn1/var", -1.0, "holds negative variances"),
    ],
)
def test_damaged_tensors(name, value, text):
    tensors = drawn(TINY)
    weights = as_weights(TINY, tensors | {name: np.full_like(tensors[name], value)})
    assert faults(weights) == [f"{name} {text}"]


def test_a_known_file_is_compared_with_its_own_framework(monkeypatch, tmp_path):
    weights = sources.load("demo")
    (finding,) = verify.verify(weights)
    assert finding.kind == "good"
    assert "known file (demo)" in finding.text
    assert "PyTorch" in finding.text
    entry = golden.known()[weights.sha256]
    mean, deviation, *samples = entry["blocks"]["layer3_2"]
    samples[3] += 0.01 * deviation
    entry["blocks"]["layer3_2"] = [mean, deviation, *samples]
    monkeypatch.setattr(golden, "PATH", tmp_path / "golden.json")
    golden.PATH.write_text(json.dumps({weights.sha256: entry}))
    (finding,) = verify.verify(weights)
    assert finding.kind == "fault"
    assert finding.text.startswith("layer3_2 is the first block")
    assert "PyTorch" in finding.text


# Real weights


@pytest.fixture(scope="module")
def real():
    if not REAL.exists():
        pytest.skip(f"needs {REAL}")
    return sources.load(str(REAL))


@pytest.mark.full
def test_real_weights_have_no_fault(real):
    findings = verify.verify(real)
    assert [f.kind for f in findings] == ["good", "good"]
    right = int(findings[1].text.split()[1])
    assert right >= 9


@pytest.mark.full
@pytest.mark.parametrize(
    ("plant", "text"),
    [
        (
            lambda w: dataclasses.replace(w, preprocessing=CAFFE),
            "runs best as RGB/255 with torchvision's mean and std: the given preprocessing "
            "(caffe BGR, 0..255 less the mean) is probably wrong",
        ),
        (lambda w: with_architecture(w, variant="v1"), "stride looks like v1.5"),
        (
            lambda w: with_tensors(
                w, params__conv1__kernel=w.tensors["params/conv1/kernel"][:, :, ::-1]
            ),
            "runs best as BGR, not as RGB: so it names oranges",
        ),
        (
            lambda w: swap(w, "layer2_1/bn1", "layer2_2/bn2"),
            "layer2_1/bn1 and layer2_2/bn2 are swapped",
        ),
    ],
)
def test_faults_in_real_weights(real, plant, text):
    texts = faults(plant(real))
    assert len(texts) == 1
    assert texts[0].startswith(text)


@pytest.mark.full
def test_real_weights_without_statistics(real):
    assert [finding.kind for finding in verify.verify(folded(real))] == ["note", "good"]
    headless = dataclasses.replace(real.architecture, num_classes=None)
    tensors = {k: v for k, v in folded(real).tensors.items() if not k.startswith("params/fc/")}
    nameless = dataclasses.replace(real, architecture=headless, tensors=tensors)
    assert not faults(nameless)
    assert "tells two photos apart" in str(verify.verify(nameless))
    (text,) = faults(without_statistics(real))
    assert "no better than random weights" in text


@pytest.mark.full
@pytest.mark.parametrize("pixels", ["inception", "unit"])
def test_misfit_of_real_weights_tells_pixels_and_padding(real, pixels):
    right = misfit.Reading(real.preprocessing, real.architecture)
    wrong = verify.with_pixels(real.preprocessing, verify.PIXELS[pixels])
    least = misfit.mean(misfit.misfits(real, right))
    assert least < 0.25
    for reading in (right._replace(preprocessing=wrong), right._replace(padding="same")):
        assert least < verify.BETTER * misfit.mean(misfit.misfits(real, reading))
