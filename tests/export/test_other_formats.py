"""StableHLO and torchvision's names beside our network."""

import dataclasses

import numpy as np
import pytest

from tests.export import networks
from tests.export.test_onnx import BGR, NETWORKS
from vtl.errors import UserError
from vtl.export import bodies, reference, stablehlo, torch_file, torch_head
from vtl.weights import sources

_HEADS = ("softmax", "calibrated", "both, l2", "everything", "cells in regions")
TORCH = {name: NETWORKS[name] for name in _HEADS} | {
    "BGR": {"preprocessing": BGR, "variant": "v1"}  # of a ResNet-18 v1 is v1.5
}


@pytest.mark.parity
@pytest.mark.parametrize("name", ["everything", "v1, BGR"])
def test_jax_reads_stablehlo_without_our_model(tmp_path, name):
    pytest.importorskip("flatbuffers")
    weights = networks.load(tmp_path / "network.safetensors", **NETWORKS[name])
    predict, ours = stablehlo.predictor(stablehlo.make(weights)), reference.predictor(weights)
    for count in (1, 3):
        crops = networks.photos(count)
        np.testing.assert_allclose(
            predict(crops).probabilities, ours(crops).probabilities, atol=1e-5
        )
        np.testing.assert_allclose(predict(crops).logits, ours(crops).logits, atol=1e-4)


def test_what_is_no_stablehlo_is_refused():
    with pytest.raises(UserError, match="JAX refuses the file"):
        stablehlo.predictor(b"nothing of the kind")


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "suffix"), [*((name, ".safetensors") for name in TORCH), ("calibrated", ".pth")]
)
def test_pytorch_computes_the_same(tmp_path, name, suffix):
    pytest.importorskip("torch")
    weights = networks.load(tmp_path / "network.safetensors", **TORCH[name])
    content = torch_file.content(weights, suffix, {})
    crops = networks.photos()
    theirs = torch_file.predictor(content, suffix, weights)(crops)
    ours = reference.predictor(weights)(crops)
    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-5)
    if weights.decisions:
        calibrated = ours.logits * networks.DECISIONS.slopes + networks.DECISIONS.intercepts
        np.testing.assert_allclose(theirs.logits, calibrated, atol=1e-4, rtol=1e-5)


@pytest.mark.parity
def test_a_strict_load_state_dict_takes_it(tmp_path):
    torch = pytest.importorskip("torch")
    from tests.references import torch_resnet

    weights = networks.load(tmp_path / "network.safetensors", decisions=networks.DECISIONS)
    state = {n: torch.tensor(array) for n, array in torch_file.tensors(weights).items()}
    model = torch_resnet.TorchResNet(18, networks.NUM_CLASSES, width=0.125)
    model.load_state_dict(state, strict=True)
    crops = networks.photos()
    with torch.no_grad():
        logits = model.eval()(torch_resnet.normalised(crops)).numpy()
    ours = reference.predictor(weights)(crops).probabilities
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), ours, atol=1e-5)


@pytest.mark.parametrize("name", ["calibrated", "BGR"])
def test_vtl_reads_its_own_export_as_the_same_network(tmp_path, name):
    weights = networks.load(tmp_path / "network.safetensors", **TORCH[name])
    path = tmp_path / "exported.safetensors"
    path.write_bytes(torch_file.content(weights, ".safetensors", {"vtl": "0"}))
    again = sources.load(str(path))
    crops = networks.photos()
    ours, theirs = reference.predictor(weights)(crops), reference.predictor(again)(crops)
    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-5)
    assert again.preprocessing.channels == "rgb"
    if weights.decisions:
        assert again.decisions.thresholds == networks.DECISIONS.thresholds
        assert set(again.decisions.slopes) == {1.0}


@pytest.mark.parametrize(
    ("options", "words"),
    [({"depth": 50, "width": 1 / 16, "variant": "v1"}, "stride"), ({}, "width 0.125")],
)
def test_what_torchvision_cannot_compute_is_refused(tmp_path, options, words):
    weights = networks.load(tmp_path / "network.safetensors", **options)
    with pytest.raises(UserError, match=words) as caught:
        bodies.of(weights).check_torch(weights)
    assert ".onnx" in str(caught.value)


def test_timm_is_told_how_photos_are_prepared(tmp_path):
    weights = networks.load(tmp_path / "network.safetensors", preprocessing=BGR)
    config = torch_file.timm_config(weights)
    how = config["pretrained_cfg"]
    assert (config["architecture"], config["num_classes"]) == ("resnet18", 5)
    assert config["label_names"] == list(networks.CLASSES)
    assert (how["input_size"], how["crop_pct"], how["crop_mode"]) == ([3, 72, 72], 0.9, "center")
    np.testing.assert_allclose(how["mean"], np.array([123.68, 116.779, 103.939]) / 255)
    np.testing.assert_allclose(how["std"], np.full(3, 1 / 255))
    squashed = dataclasses.replace(BGR, resize="squash")
    weights = dataclasses.replace(weights, preprocessing=squashed)
    how = torch_file.timm_config(weights)["pretrained_cfg"]
    assert (how["crop_pct"], how["crop_mode"]) == (1.0, "squash")


def test_a_plain_head_is_two_lines(tmp_path):
    own = networks.load(tmp_path / "network.safetensors").architecture
    text = torch_head.text(own)
    assert "cells" not in text
    assert "fc(x)" in text
