"""Files of Vision Transformers, and of other networks, that say what can't be."""

import json
import sys

import jax
import numpy as np
import pytest
from flax import traverse_util

from vtl.errors import UserError
from vtl.export import formats as export_formats
from vtl.models import efficientnet_lite
from vtl.models.vit import Architecture
from vtl.preprocessing import TORCHVISION
from vtl.weights import __main__ as command
from vtl.weights import convert, formats, metadata, network, sources
from vtl.weights.formats import safetensors

VIT = Architecture(
    **{"width": 64, "depth": 4, "heads": 1, "patch": 16, "mlp_width": 32, "grid": 2},
    num_classes=1000,
    pooling="token",
)
PIXELS = TORCHVISION.override(image_size=32)


def save(path, architecture=VIT, preprocessing=PIXELS):
    model = network.make_model(architecture)
    variables = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), network.shapes_of(model)
    )
    if architecture is VIT:
        variables = jax.device_get(jax.jit(lambda: network.initialise(model, 0))())
    sources.save(path, variables, architecture, preprocessing, None, multi_label=False)
    return path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["vtl weights", *map(str, arguments)])
    command.main()


def test_inspect_and_summary_know_vision_transformers(tmp_path, monkeypatch, capsys):
    path = save(tmp_path / "vit.safetensors")
    run(monkeypatch, "inspect", path)
    assert "network:       ViT-64x4/16" in capsys.readouterr().out
    run(monkeypatch, "summary", path)
    assert "blocks_3/mlp/fc2 " in capsys.readouterr().out


@pytest.mark.full
def test_verify_knows_vision_transformers(tmp_path, monkeypatch, capsys):
    run(monkeypatch, "verify", save(tmp_path / "vit.safetensors"))
    out = capsys.readouterr().out
    assert "drawn oranges and lemons right" in out
    assert "two photos apart" in out


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads=0"),
        ({"num_attention_heads": "x"}, "num_attention_heads='x'"),
        ({"layer_norm_eps": -5}, "says what can't be"),
    ],
)
def test_a_config_that_cannot_be_is_a_line(tmp_path, changes, says):
    tensors = sources.load(str(save(tmp_path / "own"))).tensors
    paths = {tuple(name.split("/")): tensor for name, tensor in tensors.items()}
    state = convert.from_variables(traverse_util.unflatten_dict(paths), VIT)
    safetensors.write(tmp_path / "model.safetensors", state, {})
    config = {"model_type": "vit", "hidden_size": 64, "num_hidden_layers": 4, "patch_size": 16}
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError) as caught:
        sources.load(str(tmp_path / "model.safetensors"))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (33, "must be a multiple of 16 for a ViT-64x4/16, got 33"),
        (2080, "2080 pixels are more than 16384 patches of 16"),
    ],
)
def test_photos_that_no_patches_fit_are_refused(tmp_path, pixels, says):
    path = save(
        tmp_path / "vit", preprocessing=TORCHVISION.override(resize="squash", image_size=pixels)
    )
    with pytest.raises(UserError, match=says):
        sources.load(str(path))


def test_metadata_of_a_size_that_overflows_is_damage(tmp_path):
    lite = efficientnet_lite.Architecture(size=0, width=0.25, num_classes=3)
    path = save(tmp_path / "lite", lite)
    file = formats.read(path)
    text = file.metadata[metadata.NETWORK_KEY]
    damaged = text.replace('"width": 0.25', '"width": 1e308')
    assert damaged != text
    safetensors.write(tmp_path / "damaged", file.tensors, {metadata.NETWORK_KEY: damaged})
    with pytest.raises(UserError, match="there is no such EfficientNet-Lite"):
        sources.load(str(tmp_path / "damaged"))


def test_int8_is_of_convolutions(tmp_path):
    weights = sources.load(str(save(tmp_path / "vit")))
    with pytest.raises(UserError, match="nearly all products"):
        export_formats.to_int8(None, weights, tmp_path / "x.onnx", np.zeros((1, 32, 32, 3)))
