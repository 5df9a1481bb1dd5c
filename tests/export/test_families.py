"""Every family in the other runtimes beside ours."""

import importlib
import importlib.util
import json

import numpy as np
import pytest

from tests.export import networks
from vtl.errors import UserError
from vtl.export import bodies, onnx_file, onnx_graph, reference, stablehlo, torch_file
from vtl.models import efficientnet_lite, vit
from vtl.weights import sources

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def timm():
    pytest.importorskip("torch")
    if importlib.util.find_spec("timm") is None or importlib.util.find_spec("torchvision") is None:
        pytest.skip("timm or torchvision is missing")
    from tests.references import torchvision

    torchvision.load()
    return importlib.import_module("timm")


LITE = {"size": 0, "width": 0.25, "num_classes": networks.NUM_CLASSES}
TIMMS_LITE = LITE | {"width": 1.0}
VIT = {
    **{"width": 48, "depth": 4, "heads": 3, "patch": 8, "mlp_width": 64, "grid": 5},
    "num_classes": networks.NUM_CLASSES,
}
CLIP = {"pre_norm": True, "activation": "quick_gelu", "epsilon": 1e-5}
DINOV2 = {"registers": 2, "class_position": False, "layer_scale": True, "resampling": "offset"}
SIGLIP = {
    **{"class_token": False, "class_position": False, "attention_pooling": True},
    "activation": "gelu_tanh",
}
DINOV3 = {
    **{"grid": 0, "class_position": False, "rotary": "float32", "registers": 2},
    **{"layer_scale": True, "epsilon": 1e-5},
}
GATED = {"gated": True, "activation": "silu", "qkv_bias": False}
IN_TIMM = {
    "EfficientNet-Lite": efficientnet_lite.Architecture(**TIMMS_LITE),
    "EfficientNet-Lite, torch's padding": efficientnet_lite.Architecture(
        **TIMMS_LITE, padding="torch", epsilon=1e-3, pooling="both"
    ),
    "AugReg": vit.Architecture(**VIT, pooling="token"),
    "the mean of patches": vit.Architecture(**VIT, pooling="average"),
    "CLIP": vit.Architecture(**VIT, **CLIP, pooling="token"),
    "SigLIP": vit.Architecture(**VIT, **SIGLIP, pooling="token"),
    "fc_norm": vit.Architecture(**VIT, fc_norm=True, pooling="token"),
    "DINOv2, token": vit.Architecture(**VIT, **DINOV2, pooling="token"),
    "DINOv3": vit.Architecture(**(VIT | DINOV3), pooling="average"),
    "DINOv3 S+": vit.Architecture(**(VIT | DINOV3 | GATED), pooling="token"),
}
OTHERS = {
    "narrow": efficientnet_lite.Architecture(**LITE, transform="sqrt_l2", regions=2),
    "DINOv2": vit.Architecture(**VIT, **DINOV2, pooling="token_average"),
    "tokens in regions": vit.Architecture(
        **VIT, **SIGLIP, pooling="token_average", transform="sqrt_l2", regions=2
    ),
    "cells": vit.Architecture(**VIT, **CLIP, pooling="cells"),
    "rounded periods": vit.Architecture(
        **(VIT | DINOV3 | {"rotary": "bfloat16"}), pooling="token_average"
    ),
}


def load(tmp_path, architecture, **options) -> sources.Weights:
    is_lite = isinstance(architecture, efficientnet_lite.Architecture)
    # Without shortcuts around most blocks a photo's signal fades away, or doesn't.
    scales = (0.6, 1.2) if is_lite else networks.SCALES
    options = {"decisions": networks.DECISIONS, "scales": scales} | options
    return networks.load(tmp_path / "network.safetensors", architecture=architecture, **options)


@pytest.mark.parametrize("name", IN_TIMM | OTHERS)
def test_onnx_runtime_and_stablehlo_compute_the_same(tmp_path, name):
    pytest.importorskip("onnxruntime")
    weights, crops = load(tmp_path, (IN_TIMM | OTHERS)[name]), networks.photos()
    ours = reference.predictor(weights)(crops)
    assert np.ptp(ours.probabilities, axis=0).max() > 1e-3  # it tells the photos apart
    for theirs in (
        onnx_file.predictor(onnx_graph.make(weights).SerializeToString())(crops),
        stablehlo.predictor(stablehlo.make(weights))(crops),
    ):
        np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-5)
        np.testing.assert_allclose(theirs.logits, ours.logits, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", IN_TIMM)
@pytest.mark.usefixtures("timm")
def test_timm_computes_the_same_and_the_file_comes_back(tmp_path, name):
    weights, crops = load(tmp_path, IN_TIMM[name]), networks.photos()
    ours = reference.predictor(weights)(crops)
    content = torch_file.content(weights, ".safetensors", {})
    theirs = torch_file.predictor(content, ".safetensors", weights)(crops)
    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-5)
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    again = reference.predictor(sources.load(str(path)))(crops)
    np.testing.assert_allclose(again.probabilities, ours.probabilities, atol=1e-5)


@pytest.mark.parametrize("name", ["AugReg", "EfficientNet-Lite", "SigLIP", "CLIP", "DINOv3 S+"])
def test_timm_reads_the_folder(timm, tmp_path, name):
    torch = pytest.importorskip("torch")
    weights, crops = load(tmp_path, IN_TIMM[name], decisions=None), networks.photos()
    folder = tmp_path / "folder"
    folder.mkdir()
    content = torch_file.content(weights, ".safetensors", {})
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_text(json.dumps(torch_file.timm_config(weights)))
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(data[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        logits = model((torch.tensor(crops).permute(0, 3, 1, 2) / 255 - mean) / std)
    ours = reference.predictor(weights)(crops)
    np.testing.assert_allclose(logits, ours.logits, atol=1e-4, rtol=1e-5)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    from safetensors.numpy import save_file

    save_file(state, foreign / "model.safetensors")
    (foreign / "config.json").write_text((folder / "config.json").read_text())
    assert sources.load(str(foreign)).architecture.title == weights.architecture.title


@pytest.mark.parametrize("name", OTHERS)
def test_what_timm_does_not_have_is_refused(tmp_path, name):
    weights = load(tmp_path, OTHERS[name])
    with pytest.raises(UserError, match="timm has no") as caught:
        bodies.of(weights).check_torch(weights)
    assert ".onnx" in str(caught.value)
