import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax import lax

from tests.references import blocks, recipe
from vtl.errors import UserError
from vtl.models.resnet import DEPTHS, Architecture
from vtl.preprocessing import CAFFE, TORCHVISION
from vtl.weights import convert, formats, network, sources

PATH = Path("downloads/some.pth")
SMALL = Architecture(18, 0.125, "v1.5", 1e-5, num_classes=3)


def make_variables(architecture, seed=0):
    """Random variables, whose running statistics are no longer zeros and ones."""
    shapes = network.shapes_of(network.make_model(architecture))
    uniform = recipe.Uniform(seed)
    return jax.tree.map(lambda leaf: uniform(0.5, 1.5, leaf.shape), shapes)


def state_dict(architecture=SMALL):
    return convert.from_variables(make_variables(architecture), architecture)


def canonical(tensors, layout="torch"):
    return convert.canonical(formats.WeightsFile(PATH, layout, tensors, {}))


def load(tensors, head=None, layout="torch"):
    return blocks.build(*canonical(tensors, layout), head)[1]


def refusal(call, *args, **kwargs):
    """The one line that a call is refused with."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert str(caught.value).isprintable()
    return str(caught.value)


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for path, leaf in traverse_util.flatten_dict(expected, sep="/").items():
        converted = traverse_util.flatten_dict(actual, sep="/")[path]
        np.testing.assert_array_equal(converted, leaf, err_msg=path)


# Total loading


def test_each_tensor_lands_where_torchvision_says():
    tensors = state_dict()
    variables = load(tensors)
    kernel = variables["params"]["layer2_0"]["downsample_0"]["kernel"]
    assert kernel.shape == (1, 1, 8, 16)
    np.testing.assert_array_equal(
        kernel[0, 0].T, tensors["layer2.0.downsample.0.weight"][..., 0, 0]
    )
    conv1 = variables["params"]["conv1"]["kernel"]
    assert conv1.shape == (7, 7, 3, 8)
    assert conv1[1, 2, 0, 4] == tensors["conv1.weight"][4, 0, 1, 2]
    assert variables["params"]["fc"]["kernel"][5, 2] == tensors["fc.weight"][2, 5]
    for theirs, (collection, ours) in {
        "weight": ("params", "scale"),
        "bias": ("params", "bias"),
        "running_mean": ("batch_stats", "mean"),
        "running_var": ("batch_stats", "var"),
    }.items():
        converted = variables[collection]["layer4_1"]["bn2"][ours]
        np.testing.assert_array_equal(converted, tensors[f"layer4.1.bn2.{theirs}"])


def test_batch_counters_are_ignored():
    counters = {"bn1.num_batches_tracked": np.int64(7), "layer1.0.bn1.num_batches_tracked": 7}
    assert_same(load(state_dict() | counters), load(state_dict()))


def test_unknown_tensors_are_named_with_the_file():
    extra = {"layer1.0.gate.weight": np.zeros(3, np.float32), "bn1.gamma": np.zeros(8, np.float32)}
    message = refusal(canonical, state_dict() | extra)
    assert message == (
        f"{PATH}: not a ResNet's tensors: bn1.gamma, layer1.0.gate.weight; the other 102 are. Save "
        "the network without them"
    )


def test_a_long_list_of_tensors_is_cut():
    extra = {f"extra.{i}": np.zeros(1, np.float32) for i in range(9)}
    message = refusal(canonical, state_dict() | extra)
    assert "extra.0, extra.1, extra.2, extra.3, extra.4, extra.5 and 3 more; the other" in message


def test_missing_tensors_are_named():
    tensors = state_dict()
    del tensors["layer3.1.bn1.running_var"]
    message = refusal(load, tensors)
    assert message.endswith("lack batch_stats/layer3_1/bn1/var")


def test_a_misshapen_tensor_is_named_with_both_shapes():
    tensors = state_dict()
    tensors["layer2.0.conv2.weight"] = tensors["layer2.0.conv2.weight"][:, :15]
    message = refusal(load, tensors)
    assert "params/layer2_0/conv2/kernel (3, 3, 15, 16) instead of (3, 3, 16, 16)" in message


def test_a_superfluous_tensor_is_named():
    tensors = state_dict() | {"layer1.0.conv3.bias": np.zeros(8, np.float32)}
    assert "layer1.0.conv3.bias" in refusal(canonical, tensors)
    deeper = state_dict() | {"layer1.0.downsample.0.weight": np.zeros((8, 8, 1, 1), np.float32)}
    assert "no place for params/layer1_0/downsample_0/kernel" in refusal(load, deeper)


def test_two_tensors_for_one_place_are_refused():
    tensors = keras_tensors() | {"fc1000/kernel": np.zeros((512, 3), np.float32)}
    message = refusal(canonical, tensors, "keras_legacy_h5")
    assert message.startswith(f"{PATH}: two tensors for params/fc/kernel")
    assert "fc1000/kernel" in message


def test_a_head_is_replaced_only_where_one_is_given():
    tensors = state_dict()
    head = {"kernel": np.full((64, 5), 2, np.float32), "bias": np.arange(5, dtype=np.float32)}
    replaced, kept = load(tensors, head), load(tensors)
    np.testing.assert_array_equal(replaced["params"]["fc"]["kernel"], head["kernel"])
    np.testing.assert_array_equal(replaced["params"]["fc"]["bias"], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(kept["params"]["fc"]["kernel"], tensors["fc.weight"].T)
    del replaced["params"]["fc"], kept["params"]["fc"]
    assert_same(replaced, kept)
    shapes = network.shapes_of(network.make_model(dataclasses.replace(SMALL, num_classes=5)))
    message = refusal(convert.to_variables, canonical(tensors)[0], shapes)
    assert "params/fc/bias (3,) instead of (5,)" in message


def test_names_in_messages_are_printable():
    message = refusal(canonical, state_dict() | {"\x1b[31m\nbn": np.zeros(3, np.float32)})
    assert "not a ResNet's tensors: \\x1b[31m bn; " in message


@pytest.mark.parametrize("num_classes", [10, 20, 1000, 21841])
def test_heads_of_any_size_load(num_classes):
    architecture = dataclasses.replace(SMALL, num_classes=num_classes)
    tensors = state_dict(architecture)
    assert canonical(tensors)[1] == architecture
    head = load(tensors)["params"]["fc"]
    assert head["kernel"].shape == (64, num_classes)
    np.testing.assert_array_equal(head["kernel"], tensors["fc.weight"].T)
    np.testing.assert_array_equal(head["bias"], tensors["fc.bias"])


@pytest.mark.parametrize(
    ("key", "shape", "dimensions"),
    [
        ("fc.weight", (3, 64, 1, 1), 2),
        ("fc.bias", (), 1),
        ("conv1.weight", (8, 147), 4),
        ("layer1.0.bn1.running_mean", (1, 8), 1),
    ],
)
def test_a_tensor_of_other_dimensions_is_named(key, shape, dimensions):
    message = refusal(canonical, state_dict() | {key: np.ones(shape, np.float32)})
    assert message == f"{PATH}: {key} has shape {shape}, expected {dimensions} dimensions"


# Other families

BOTTLENECK = dataclasses.replace(SMALL, depth=50)


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize("wrapper", ["", "module."])
@pytest.mark.parametrize(
    ("extra", "tensor", "family"),
    [
        (
            {"conv1.0.weight": ones(4, 3, 3, 3), "conv1.1.bias": ones(4)},
            "conv1.0.weight",
            "ResNet-D",
        ),
        ({"layer1.0.se.fc1.weight": ones(2, 32, 1, 1)}, "layer1.0.se.fc1.weight", "SE-"),
        ({"layer1.0.conv2.weight": ones(8, 2, 3, 3)}, "layer1.0.conv2.weight", "ResNeXt"),
        (
            {
                "layer1.0.conv1.weight": ones(16, 8, 1, 1),
                "layer1.0.conv2.weight": ones(16, 16, 3, 3),
            },
            "layer1.0.conv1.weight",
            "Wide ResNet",
        ),
        ({"stages.0.blocks.0.norm1.weight": ones(8)}, "stages.0.blocks.0.norm1.weight", "v2"),
        ({"onnx::Conv_497": ones(8, 3, 7, 7)}, "onnx::Conv_497", "ONNX"),
    ],
)
def test_other_families_are_named(wrapper, extra, tensor, family):
    tensors = {wrapper + key: value for key, value in (state_dict(BOTTLENECK) | extra).items()}
    message = refusal(canonical, tensors)
    assert message.startswith(f"{PATH}: ")
    assert tensor in message
    assert family in message


def test_folded_batch_norm_is_named():
    convs = {key: t for key, t in state_dict().items() if re.search(r"conv|downsample\.0", key)}
    biases = {key.replace("weight", "bias"): ones(len(t)) for key, t in convs.items()}
    message = refusal(canonical, convs | biases)
    assert message.startswith(f"{PATH}: BatchNorm was folded")
    assert "unfolded network" in message


def test_keras_v2_and_a_misshapen_bias_are_named():
    tensors = keras_tensors() | {"conv2_block1_preact_bn/gamma": ones(16)}
    message = refusal(canonical, tensors, "keras_legacy_h5")
    assert "(conv2_block1_preact_bn/gamma): ResNet v2 is not supported" in message
    tensors = keras_tensors() | {"conv1_conv/bias": ones(3)}
    message = refusal(canonical, tensors, "keras_legacy_h5")
    for fact in (f"{PATH}: batch_stats/bn1/mean", "(16,)", "bias", "(3,)"):
        assert fact in message


# Prefixes from modules around the network

WRAPPERS = [
    *("module.", "model.", "backbone.", "encoder.", "module.model.", "model.backbone."),
    *("_orig_mod.", "_orig_mod.module.", "model._orig_mod.", "net.", "student.", "0."),
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("head", ["wrapped", "bare", "none"])
def test_a_prefix_of_all_names_is_stripped(wrapper, head):
    tensors = state_dict()
    if head == "none":
        tensors = {key: t for key, t in tensors.items() if not key.startswith("fc.")}
    expected, architecture = canonical(tensors)
    wrapped = {
        key if head == "bare" and key.startswith("fc.") else wrapper + key: tensor
        for key, tensor in (tensors | {"bn1.num_batches_tracked": np.array(7)}).items()
    }
    converted, same = canonical(wrapped)
    assert same == architecture
    assert_same(converted, expected)


def test_what_pytorch_puts_between_names_is_no_part_of_them():
    tensors = state_dict()
    compiled = {
        re.sub(r"^layer(\d)\.", r"layer\1._orig_mod._checkpoint_wrapped_module.", key): tensor
        for key, tensor in tensors.items()
    }
    assert "layer1._orig_mod._checkpoint_wrapped_module.0.conv1.weight" in compiled
    assert_same(canonical(compiled)[0], canonical(tensors)[0])


@pytest.mark.parametrize("wrapper", ["", "backbone.", "module.model.", "_orig_mod."])
@pytest.mark.parametrize(
    "extra",
    ["criterion.pos_weight", "classifier.weight", "projection_head.0.bias", "aux.bn1.weight"],
)
def test_a_few_foreign_tensors_leave_the_others_known(wrapper, extra):
    tensors = {wrapper + key: t for key, t in state_dict().items() if not key.startswith("fc.")}
    message = refusal(canonical, tensors | {extra: np.zeros(3, np.float32)})
    assert message == (
        f"{PATH}: not a ResNet's tensors: {extra}; the other 100 are. Save the network without them"
    )


def test_a_prefix_of_some_names_only_is_refused():
    mixed = {
        "module." + key if key.startswith("layer") else key: t for key, t in state_dict().items()
    }
    message = refusal(canonical, mixed)
    assert "tensors: bn1.bias, bn1.running_mean, bn1.running_var, bn1.weight, conv1.w" in message
    two_heads = {"model." + key: t for key, t in state_dict().items()}
    two_heads["fc.bias"] = two_heads["model.fc.bias"]
    message = refusal(canonical, two_heads)
    assert message == f"{PATH}: two tensors for params/fc/bias, the second is fc.bias"


def test_two_networks_side_by_side_are_named():
    both = {
        f"module.encoder_{which}.{key}": t for key, t in state_dict().items() for which in "qk"
    } | {"module.queue": np.zeros((3, 4), np.float32)}
    assert refusal(canonical, both) == (
        f"{PATH}: holds 2 networks, under 'module.encoder_k.' and 'module.encoder_q.'; save the "
        "one you want"
    )


def test_numbers_beyond_float32_are_infinite():
    tensors = state_dict()
    tensors["conv1.weight"] = tensors["conv1.weight"].astype(np.float64) * 1e300
    found, architecture = canonical(tensors)
    message = refusal(convert.check_finite, found, architecture.epsilon, PATH)
    assert message.startswith(f"{PATH}: params/conv1/kernel holds NaN or infinity")


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5])
def test_what_makes_every_output_nan_is_named(value):
    found, architecture = canonical(state_dict())
    convert.check_finite(found, architecture.epsilon, PATH)
    found["batch_stats/layer3_0/bn2/var"][3] = value
    message = refusal(convert.check_finite, found, architecture.epsilon, PATH)
    assert message.startswith(f"{PATH}: batch_stats/layer3_0/bn2/var holds ")


# Hugging Face


def hugging_face(tensors, prefix="resnet."):
    """A state_dict under the names of transformers' ResNetForImageClassification."""
    converted = {}
    for key, tensor in tensors.items():
        name, _, leaf = key.rpartition(".")
        if match := re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)", name):
            stage, block, kind, index = match.groups()
            part = "shortcut" if kind == "downsample." else f"layer.{int(index) - 1}"
            is_norm = kind == "bn" or (kind == "downsample." and index == "1")
            name = f"{prefix}encoder.stages.{int(stage) - 1}.layers.{block}.{part}"
        elif name == "fc":
            converted[f"classifier.1.{leaf}"] = tensor
            continue
        else:
            name, is_norm = f"{prefix}embedder.embedder", name == "bn1"
        converted[f"{name}.{'normalization' if is_norm else 'convolution'}.{leaf}"] = tensor
    return converted


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("prefix", ["resnet.", "", "model.resnet."])
@pytest.mark.parametrize("has_head", [True, False])
def test_hugging_face_names(depth, prefix, has_head):
    tensors = state_dict(dataclasses.replace(SMALL, depth=depth))
    if not has_head:
        tensors = {key: t for key, t in tensors.items() if not key.startswith("fc.")}
    expected, architecture = canonical(tensors)
    theirs = hugging_face(tensors, prefix)
    assert f"{prefix}encoder.stages.1.layers.0.shortcut.normalization.running_var" in theirs
    theirs[f"{prefix}embedder.embedder.normalization.num_batches_tracked"] = np.array(7)
    converted, same = canonical(theirs, "safetensors")
    assert same == architecture
    assert_same(converted, expected)


def test_hugging_face_loading_is_total():
    tensors = hugging_face(state_dict())
    pooler = {"resnet.pooler.weight": np.zeros(3, np.float32)}
    assert "not a ResNet's tensors: resnet.pooler.weight" in refusal(canonical, tensors | pooler)
    mixed = tensors | {"fc.bias": np.zeros(3, np.float32)}
    assert "not a ResNet's tensors: fc.bias" in refusal(canonical, mixed)


# The architecture that the tensors imply


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("width", [0.125, pytest.param(0.25, marks=pytest.mark.full)])
def test_depth_and_width_are_read_from_the_tensors(depth, width):
    architecture = Architecture(depth, width, "v1.5", 1e-5, num_classes=4)
    shapes = network.shapes_of(network.make_model(architecture))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    assert canonical(convert.from_variables(zeros, architecture))[1] == architecture


def test_a_file_without_head_has_no_classes():
    tensors = {name: t for name, t in state_dict().items() if not name.startswith("fc.")}
    assert canonical(tensors)[1] == dataclasses.replace(SMALL, num_classes=None)


def test_stages_of_no_known_resnet_are_refused():
    tensors = {n: t for n, t in state_dict().items() if not n.startswith("layer4.1.")}
    message = refusal(canonical, tensors)
    assert message.startswith(f"{PATH}: stages of [2, 2, 2, 1] blocks")
    assert "18, 34, 50" in message


def test_a_missing_stem_is_named():
    tensors = state_dict()
    del tensors["conv1.weight"]
    assert refusal(canonical, tensors) == f"{PATH}: conv1 is missing"


# Keras

KERAS = Architecture(50, 0.25, "v1", 1.001e-5, num_classes=3)


def keras_tensors():
    """A narrow ResNet-50 under Keras' names, every convolution with a bias."""
    variables = make_variables(KERAS)
    uniform = recipe.Uniform(5)
    leaves = {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance", "kernel": "kernel"}
    tensors = {}
    for path, leaf in traverse_util.flatten_dict(variables, sep="/").items():
        _, *modules, name = path.split("/")
        layer, part = keras_layer(modules), modules[-1]
        is_norm = part.startswith("bn") or part == "downsample_1"
        tensors[f"{layer}/{'beta' if is_norm and name == 'bias' else leaves.get(name, name)}"] = (
            leaf
        )
        if name == "kernel" and layer.endswith("_conv"):
            tensors[f"{layer}/bias"] = uniform(-1, 1, leaf.shape[-1:])
    return tensors


def keras_layer(modules):
    if len(modules) == 1:
        return {"conv1": "conv1_conv", "bn1": "conv1_bn", "fc": "predictions"}[modules[0]]
    stage, block = re.fullmatch(r"layer(\d)_(\d+)", modules[0]).groups()
    part = {"downsample_0": "0_conv", "downsample_1": "0_bn"}.get(modules[1])
    part = part or re.sub(r"(conv|bn)(\d)", r"\2_\1", modules[1])
    return f"conv{int(stage) + 1}_block{int(block) + 1}_{part}"


@pytest.mark.parametrize(
    ("conv", "norm", "module", "size"),
    [
        ("conv1_conv", "conv1_bn", ("bn1",), 7),
        ("conv4_block1_0_conv", "conv4_block1_0_bn", ("layer3_0", "downsample_1"), 1),
        ("conv3_block2_2_conv", "conv3_block2_2_bn", ("layer2_1", "bn2"), 3),
    ],
)
def test_a_keras_bias_is_folded_into_the_running_mean(conv, norm, module, size):
    tensors = keras_tensors()
    variables = load(tensors, layout="keras_legacy_h5")
    kernel, bias = tensors[f"{conv}/kernel"], tensors[f"{conv}/bias"]
    assert kernel.shape[0] == size
    x = jnp.asarray(recipe.Uniform(1)(-1, 1, (2, 9, 9, kernel.shape[2])))
    unbiased = lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    gamma, beta, mean, var = (
        tensors[f"{norm}/{leaf}"] for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    biased = gamma * (unbiased + bias - mean) / np.sqrt(var + 1.001e-5) + beta
    params, stats = variables["params"], variables["batch_stats"]
    for name in module:
        params, stats = params[name], stats[name]
    folded = (unbiased - stats["mean"]) / np.sqrt(stats["var"] + 1.001e-5)
    folded = params["scale"] * folded + params["bias"]
    assert np.abs(bias).max() > 0.5
    np.testing.assert_allclose(folded, biased, rtol=0, atol=1e-5 * np.abs(biased).max())


def named_as_in_2017(tensors):
    """The official layout's tensors under the names of the file of 2017."""
    old = {}
    for key, tensor in tensors.items():
        layer, leaf = key.split("/")
        if match := re.fullmatch(r"conv(\d)_block(\d)_(\d)_(conv|bn)", layer):
            stage, block, index, kind = match.groups()
            branch = ("1", "2a", "2b", "2c")[int(index)]
            kind = {"conv": "res", "bn": "bn"}[kind]
            layer = f"{kind}{stage}{'abcdef'[int(block) - 1]}_branch{branch}"
        layer = {"conv1_conv": "conv1", "conv1_bn": "bn_conv1", "predictions": "fc1000"}.get(
            layer, layer
        )
        old[f"{layer}/{leaf}"] = tensor
    return old


def test_keras_architecture_and_the_file_of_2017():
    tensors = keras_tensors()
    assert canonical(tensors, "keras_legacy_h5")[1] == KERAS
    old = named_as_in_2017(tensors)
    assert canonical(old, "keras_legacy_h5")[1] == dataclasses.replace(KERAS, epsilon=1e-3)
    assert_same(load(old, layout="keras_legacy_h5"), load(tensors, layout="keras_legacy_h5"))


# Keras 3


def keras_3_order():
    """The layers of a ResNet-50 of Keras as `model.layers` has them, without `_conv` and `_bn`."""
    order = ["conv1"]
    for stage, count in enumerate((3, 4, 6, 3), start=2):
        order += [f"conv{stage}_block1_{part}" for part in (1, 2, 0, 3)]
        order += [f"conv{stage}_block{b}_{part}" for b in range(2, count + 1) for part in (1, 2, 3)]
    return order


def keras_3_tensors(layer_of, tensors=None):
    """`keras_tensors` by number of variable, under the layer's name that `layer_of` gives."""
    orders = (("kernel", "bias"), ("gamma", "beta", "moving_mean", "moving_variance"))
    numbers = {leaf: i for order in orders for i, leaf in enumerate(order)}
    converted = {}
    for key, tensor in (tensors or keras_tensors()).items():
        layer, _, leaf = key.partition("/")
        converted[f"{layer_of(layer)}/vars/{numbers[leaf]}"] = tensor
    return converted


def numbered(layer):
    """`conv2_block1_0_bn` -> `layers/batch_normalization_3`."""
    if layer == "predictions":
        return "layers/dense"
    name, _, kind = layer.rpartition("_")
    index = keras_3_order().index(name)
    group = {"conv": "conv2d", "bn": "batch_normalization"}[kind]
    return f"layers/{group}_{index}" if index else f"layers/{group}"


def test_keras_3_numbers():
    assert numbered("conv2_block1_0_conv") == "layers/conv2d_3"
    assert numbered("conv2_block1_3_bn") == "layers/batch_normalization_4"
    assert numbered("conv5_block3_3_conv") == "layers/conv2d_52"


@pytest.mark.parametrize(
    "layer_of",
    [
        numbered,
        lambda layer: layer,
        lambda layer: f"layers/{layer}",
        lambda layer: numbered(layer).replace("layers", "layers/functional/layers"),
        lambda layer: "dense_7" if layer == "predictions" else layer,
    ],
    ids=["numbered", "named", "named groups", "nested", "own head"],
)
def test_keras_3_gives_the_same_as_the_legacy_layout(layer_of):
    expected, architecture = canonical(keras_tensors(), "keras_legacy_h5")
    tensors = keras_3_tensors(layer_of) | {"optimizer/vars/0": np.array(7)}
    converted, same = canonical(tensors, "keras3_weights_h5")
    assert architecture == same == KERAS
    assert_same(converted, expected)


def test_keras_3_of_another_network():
    tensors = keras_3_tensors(numbered)
    fewer = {key: t for key, t in tensors.items() if not key.startswith("layers/conv2d_52/")}
    message = refusal(canonical, fewer, "keras3_weights_h5")
    assert message.startswith(f"{PATH}: 52 unnamed convolutions")
    assert "50, 101, 152" in message
    extra = tensors | {"layers/normalization/vars/0": np.zeros(3, np.float32)}
    assert "not a ResNet's tensors: layers/normalization/vars/0" in refusal(
        canonical, extra, "keras3_weights_h5"
    )
    two = tensors | {"layers/dense_1/vars/0": np.zeros((512, 3), np.float32)}
    assert "two tensors for params/fc/kernel" in refusal(canonical, two, "keras3_weights_h5")
    autonamed = {key.removeprefix("layers/"): tensor for key, tensor in tensors.items()}
    assert "not a ResNet's tensors: batch_normalization/vars/0" in refusal(
        canonical, autonamed, "keras3_weights_h5"
    )


# There and back


@pytest.mark.parametrize(
    ("architecture", "preprocessing"),
    [
        (SMALL, dataclasses.replace(TORCHVISION, resize_size=236, interpolation="bicubic")),
        (Architecture(50, 0.125, "v1", 1e-3, num_classes=3), CAFFE),
    ],
)
def test_a_saved_network_loads_as_it_was(architecture, preprocessing, tmp_path):
    variables, classes = make_variables(architecture), ("cat", "dog", "Käfer")
    path = tmp_path / "model.safetensors"
    sources.save(path, variables, architecture, preprocessing, classes, multi_label=True)
    for place in (path, tmp_path):
        weights = sources.load(str(place))
        assert weights.architecture == architecture
        assert weights.preprocessing == preprocessing
        assert weights.classes == classes
        assert_same(blocks.build(weights.tensors, weights.architecture)[1], variables)
    tensors = formats.read(path).tensors
    assert tensors["layer2.0.downsample.0.weight"].ndim == 4
