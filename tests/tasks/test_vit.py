"""A network without BatchNorm through the tasks, from photos to answers."""

import json
import re

import jax
import numpy as np
import pytest

from configs import deep_features as features_config
from configs import finetune as finetune_config
from tests.devkit import write_devkit
from tests.test_end_to_end import read_scores
from vtl.models.vit import Architecture as ViT
from vtl.predict.predictor import Predictor
from vtl.preprocessing import TORCHVISION
from vtl.tasks import features, finetune
from vtl.weights import network, sources

ARCHITECTURE = ViT(
    **{"width": 32, "depth": 4, "heads": 2, "patch": 16, "mlp_width": 32, "grid": 3},
    **{"registers": 1, "class_position": False, "layer_scale": True},
    num_classes=3,
    pooling="token_average",
)
SHARED = {"data.train_split": "train", "data.image_size": 32, "data.resize": "squash"}


@pytest.mark.full
def test_a_vision_transformer_is_probed_and_fine_tuned(tmp_path):
    model = network.make_model(ARCHITECTURE)
    variables = jax.device_get(jax.jit(lambda: network.initialise(model, 0))())
    weights = tmp_path / "weights.safetensors"
    pixels = TORCHVISION.override(resize="squash", image_size=32)
    sources.save(weights, variables, ARCHITECTURE, pixels, None, multi_label=False)
    devkit = write_devkit(tmp_path, {"train": 24, "test": 9}, ("bird", "cat", "dog"), 48, seed=1)
    shared = SHARED | {"data.root": str(devkit), "weights": str(weights)}

    config = features_config.get_config()
    config.update_from_flattened_dict(shared | {"pooling": ""})
    features.run(config, tmp_path / "features")
    results = json.loads((tmp_path / "features" / "results.json").read_text())
    assert results["num_features"] == 64
    assert (results["layer"], results["pooling"]) == ("stage4", "token_average")

    rules = (("fc/.*", 1.0), ("last_stage", 1.0), (".*", None))
    config = finetune_config.get_config()
    config.update_from_flattened_dict(
        shared | {"num_epochs": 2.0, "held_out": 0.0, "batch_size": 8, "optim.rules": rules}
    )
    finetune.run(config, tmp_path / "run")
    trained = sources.load(str(tmp_path / "run"))
    before = sources.load(str(weights)).tensors
    moved = {key for key, t in trained.tensors.items() if not np.array_equal(t, before[key])}
    own = re.compile(f"params/({ARCHITECTURE.last_stage}|fc/.*)")
    assert moved == {key for key in before if own.fullmatch(key)}

    assert Predictor.load(str(tmp_path / "run")).weights.architecture.title == "ViT-32x4/16"
    logits = read_scores(tmp_path / "run", "test")["logits"]
    with np.load(tmp_path / "run" / "gallery_test.npz") as gallery:
        shown = gallery["rows"][gallery["photo"]], gallery["column"]
        of_maps = gallery["map"].mean(axis=(1, 2)) + gallery["bias"][shown[1]]
    np.testing.assert_allclose(of_maps, logits[shown], rtol=1e-3, atol=1e-4)
