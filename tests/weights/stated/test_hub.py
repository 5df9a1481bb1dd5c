"""config.json beside the weights, as timm and transformers write it."""

import dataclasses
import json

import pytest

from tests.tiny import write_weights
from vtl.errors import UserError
from vtl.preprocessing import TORCHVISION
from vtl.weights import formats, sources
from vtl.weights.formats import safetensors

NAMES = ["ant", "bee", "cat", "dog", "emu", "fox", "gnu"]


@pytest.fixture
def folder(tmp_path):
    """A ResNet-18 of seven classes as others write it, without our metadata."""
    tensors = formats.read(write_weights(tmp_path / "tiny.safetensors")).tensors
    (tmp_path / "hub").mkdir()
    safetensors.write(tmp_path / "hub" / "model.safetensors", tensors, {"format": "pt"})
    return tmp_path / "hub"


def load(folder, config, processor=None, name="model.safetensors"):
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return sources.load(str(folder / name))


TIMM = {
    "architecture": "resnet18",
    "num_classes": 7,
    "global_pool": "avg",
    "label_names": NAMES,
    "pretrained_cfg": {
        "input_size": [3, 160, 160],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.5, 0.6, 0.7],
    },
}


def timm(**changes):
    return TIMM | {"pretrained_cfg": TIMM["pretrained_cfg"] | changes}


def test_timms_pixels_sizes_and_names(folder, caplog):
    weights = load(folder, TIMM)
    assert weights.preprocessing == dataclasses.replace(
        TORCHVISION,
        mean=(0.5, 0.4, 0.3),
        std=(0.5, 0.6, 0.7),
        interpolation="bicubic",
        resize_size=168,  # floor(160 / 0.95), as timm's own transforms
        crop_size=160,
    )
    assert weights.classes == tuple(NAMES)
    assert weights.given_by == "config.json beside it"
    assert not caplog.text
    # Before 2023 it stood in config.json itself.
    flat = {k: v for k, v in TIMM.items() if k != "pretrained_cfg"} | TIMM["pretrained_cfg"]
    assert load(folder, flat).preprocessing == weights.preprocessing
    squashed = load(folder, timm(crop_mode="squash", crop_pct=1.0)).preprocessing
    assert (squashed.resize, squashed.crop_size, squashed.resize_size) == ("squash", 160, 160)
    # By the folder, and under a name of one's own.
    assert sources.load(str(folder)).classes == tuple(NAMES)
    (folder / "model.safetensors").rename(folder / "mine.safetensors")
    assert load(folder, TIMM, name="mine.safetensors").classes == tuple(NAMES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "resnetblur18"}, "says 'resnetblur18': another network than a plain"),
        ({"architecture": "resnetaa50"}, "says 'resnetaa50': another network"),
        ({"architecture": "resnet34"}, "says 'resnet34': another network than a plain ResNet-18"),
        ({"architecture": "\x1b[31m" * 99}, "another network"),
        ({"model_args": {"output_stride": 8}}, "output_stride: vtl has no dilated ResNets"),
        ({"model_args": {"act_layer": "gelu"}}, "act_layer in model_args: vtl has no such"),
        ({"global_pool": "max"}, "global_pool='max': vtl averages"),
    ],
)
def test_another_network_with_the_same_tensors_is_refused(folder, change, message):
    with pytest.raises(UserError) as caught:
        load(folder, TIMM | change)
    assert message in str(caught.value) or "…" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300 + len(str(folder))


def test_a_config_beside_a_file_of_another_name_may_be_of_something_else(folder, caplog):
    (folder / "model.safetensors").rename(folder / "mine.safetensors")
    weights = load(folder, {"model_type": "bert"}, name="mine.safetensors")
    assert weights.preprocessing == TORCHVISION
    assert "config.json beside it was not read (it says model_type='bert'" in caplog.text
    assert "; assuming RGB times 0.003922, mean 0.485 0.456 0.406" in caplog.text


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "can't be read"),
        ("[" * 100_000, "can't be read"),
        ("3", "it is no JSON object"),
        ({"task": "finetune"}, "it names no architecture"),
        (timm(mean="red"), "no photo can be prepared as it says"),
        (timm(std=[0.5, 0, 0.5]), "no photo can be prepared as it says"),
        (timm(input_size=[3, 1 << 40, 1 << 40]), "no photo can be prepared as it says"),
        (timm(input_size=[3, 160, 200]), "input_size=[3, 160, 200]"),
        (timm(interpolation="lanczos"), "interpolation=lanczos"),
        (timm(crop_mode="border"), "crop_mode=border with crop_pct=0.95"),
        (TIMM | {"label_names": ["a"]}, "its class names, which are not of the head's 7"),
        (TIMM | {"label_names": ["\x1b"] * 7}, "its class names"),
        (TIMM | {"pretrained_cfg": 3}, ""),
    ],
)
def test_what_is_not_understood_is_a_line(folder, caplog, config, reason):
    weights = load(folder, config)
    assert f"{folder / 'model.safetensors'}: config.json beside it was not read (" in caplog.text
    assert reason in caplog.text
    assert "; assuming " in caplog.text
    assert len(caplog.records) == 1
    assert weights.architecture.num_classes == 7


def test_a_pipe_beside_the_weights_is_not_waited_for(folder, caplog):
    import os

    os.mkfifo(folder / "config.json")
    assert sources.load(str(folder)).preprocessing == TORCHVISION
    assert "is a pipe and not a plain file" in caplog.text


def test_our_own_metadata_comes_first(folder, tmp_path):
    (tmp_path / "tiny.safetensors").rename(folder / "model.safetensors")
    weights = load(folder, TIMM)
    assert weights.preprocessing == TORCHVISION
    assert weights.classes[0] == "other 0"
    assert weights.given_by == "the file itself"


TRANSFORMERS = {
    "architectures": ["ResNetForImageClassification"],
    "model_type": "resnet",
    "depths": [2, 2, 2, 2],
    "layer_type": "basic",
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "id2label": {str(i): name for i, name in enumerate(NAMES)},
}
CONVNEXT = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "resample": 3,
    "size": {"shortest_edge": 224},
}


def test_transformers_pixels_and_names(folder, caplog):
    weights = load(folder, TRANSFORMERS, CONVNEXT)
    assert weights.preprocessing == dataclasses.replace(
        TORCHVISION, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bicubic"
    )
    assert weights.classes == tuple(NAMES)
    assert not weights.multi_label
    several = TRANSFORMERS | {"problem_type": "multi_label_classification"}
    assert load(folder, several, CONVNEXT).multi_label
    nameless = TRANSFORMERS | {"id2label": {str(i): f"LABEL_{i}" for i in range(7)}}
    assert load(folder, nameless, CONVNEXT).classes is None
    first = TRANSFORMERS | {"downsample_in_bottleneck": True}
    assert load(folder, first, CONVNEXT).architecture.variant == "v1"
    assert not caplog.text


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (CONVNEXT | {"size": 384}, ("squash", 384, 384)),
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
            | {"do_center_crop": True},
            ("resize_crop", 256, 224),
        ),
        ({"size": {"height": 96, "width": 96}}, ("squash", 96, 96)),
    ],
)
def test_transformers_sizes(folder, processor, expected):
    found = load(folder, TRANSFORMERS, processor).preprocessing
    assert (found.resize, found.resize_size, found.crop_size) == expected


def test_transformers_without_a_processor_and_other_networks(folder, caplog):
    load(folder, TRANSFORMERS)
    assert "was not read (there is no preprocessor_config.json); assuming" in caplog.text
    for change in ({"depths": [3, 4, 6, 3]}, {"hidden_act": "gelu"}, {"model_type": "regnet"}):
        with pytest.raises(UserError, match=r"config\.json beside it says "):
            load(folder, TRANSFORMERS | change, CONVNEXT)
