"""The ONNX graph in ONNX Runtime and OpenVINO beside our network."""

import dataclasses
import json

import numpy as np
import pytest

from tests.export import networks
from vtl.export import check, onnx_file, onnx_graph, reference
from vtl.preprocessing import CAFFE
from vtl.weights import sources

pytestmark = pytest.mark.parity

BGR = dataclasses.replace(CAFFE, resize_size=80, crop_size=networks.SIDE)
NETWORKS = {
    "plain": {},
    "resnet50": {"depth": 50, "width": 1 / 16},
    "v1, BGR": {"depth": 50, "width": 1 / 16, "variant": "v1", "preprocessing": BGR},
    "softmax": {"multi_label": False},
    "calibrated": {"decisions": networks.DECISIONS},
    "calibrated softmax": {"decisions": networks.DECISIONS, "multi_label": False},
    "maximum": {"pooling": "maximum"},
    "both, l2": {"pooling": "both", "transform": "l2"},
    "cells": {"pooling": "cells"},
    "2 x 2 regions": {"regions": 2},
    "everything": {
        **{"pooling": "both", "transform": "sqrt_l2", "regions": 3},
        "decisions": networks.DECISIONS,
    },
    "cells in regions": {"pooling": "cells", "transform": "sqrt_l2", "regions": 2},
}


@pytest.fixture(scope="module", params=NETWORKS)
def weights(request, tmp_path_factory) -> sources.Weights:
    pytest.importorskip("onnx")
    path = tmp_path_factory.mktemp("network") / "network.safetensors"
    return networks.load(path, **NETWORKS[request.param])


def test_onnx_runtime_computes_the_same(weights):
    pytest.importorskip("onnxruntime")
    crops = networks.photos()
    ours = reference.predictor(weights)(crops)
    theirs = onnx_file.predictor(onnx_graph.make(weights).SerializeToString())(crops)
    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-5)
    np.testing.assert_allclose(theirs.logits, ours.logits, atol=1e-4, rtol=1e-5)
    assert np.ptp(ours.probabilities, axis=0).max() > 0.01  # it tells the photos apart


def test_openvino_computes_the_same(tmp_path):
    pytest.importorskip("onnx")
    weights = networks.load(tmp_path / "network.safetensors", **NETWORKS["everything"])
    crops = networks.photos()
    theirs = openvino_outputs(tmp_path, onnx_graph.make(weights), crops)
    ours = reference.predictor(weights)(crops)
    np.testing.assert_allclose(theirs[0], ours.probabilities, atol=1e-5)


def openvino_outputs(tmp_path, model, pictures):
    """Probabilities and logits by OpenVINO in float32."""
    openvino = pytest.importorskip("openvino")
    path = tmp_path / "network.onnx"
    path.write_bytes(model.SerializeToString())
    network = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return list(network(pictures).values())


def test_openvino_resizes_too(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weights = networks.load(tmp_path / "network.safetensors")
    model = onnx_graph.make(weights, resizes=True)
    picture = networks.photos(1, 150)[:, :107]
    by_openvino = openvino_outputs(tmp_path, model, picture)
    by_onnxruntime = onnx_file.predictor(model.SerializeToString())(picture)
    np.testing.assert_allclose(by_openvino[0], by_onnxruntime.probabilities, atol=1e-4)


def test_batches_of_any_size_go_in(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weights = networks.load(tmp_path / "network.safetensors")
    predict = onnx_file.predictor(onnx_graph.make(weights).SerializeToString())
    crops = networks.photos(19)
    one_by_one = np.concatenate([predict(crop[None]).logits for crop in crops])
    np.testing.assert_allclose(predict(crops).logits, one_by_one, atol=1e-5)


def test_float16_is_near(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weights = networks.load(tmp_path / "network.safetensors")
    whole, half = (
        onnx_graph.make(weights, dtype=dtype).SerializeToString()
        for dtype in ("float32", "float16")
    )
    assert len(half) < 0.6 * len(whole)
    crops = networks.photos()
    difference = np.abs(
        onnx_file.predictor(whole)(crops).probabilities
        - onnx_file.predictor(half)(crops).probabilities
    )
    assert 0 < difference.max() < 0.01


def test_the_metadata_is_text_or_json(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx_graph.make(networks.load(tmp_path / "network.safetensors"))
    content = onnx_file.with_metadata(model, {"licence": "MIT", "classes": ["a", "b"]})
    properties = {p.key: p.value for p in onnx.load_from_string(content).metadata_props}
    assert properties["licence"] == "MIT"
    assert json.loads(properties["classes"]) == ["a", "b"]


def test_another_outcome_is_refused(tmp_path):
    weights = networks.load(tmp_path / "network.safetensors")
    zeros = np.zeros((2, networks.NUM_CLASSES), np.float32)
    ours = reference.Outputs(zeros, zeros)
    for wrong, shown in ((np.float32(1e-3), "1.0e-03"), (np.float32(np.nan), "inf")):
        comparison = check.compare(
            "onnxruntime 1", ours, reference.Outputs(zeros + wrong, zeros), weights, "2 photos"
        )
        with pytest.raises(check.UserError, match=shown):
            check.refuse_other(comparison)
    check.refuse_other(check.compare("onnxruntime 1", ours, ours, weights, "2 photos"))
