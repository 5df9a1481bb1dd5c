import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.deep_features import get_config
from tests.devkit import write_devkit
from tests.tiny import write_weights
from vtl import dtypes
from vtl.data import batches, deep_features, duplicates, images, voc
from vtl.errors import UserError
from vtl.features import extract
from vtl.models import head
from vtl.preprocessing import normalise
from vtl.tasks import features
from vtl.weights import convert, network, sources

CLASSES = ("bird", "cat", "dog")
SIZE = 32


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VTL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    splits = {"trainval": 11, "test": 7}
    return write_devkit(tmp_path_factory.mktemp("data"), splits, classes=CLASSES, size=48)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def make_config(devkit, weights, **changes):
    config = get_config()
    config.update_from_flattened_dict(
        {
            "data.root": str(devkit),
            "data.image_size": SIZE,
            "data.resize": "squash",
            "weights": str(weights),
            "pooling": "average",
            "model.depth": 18,
            "model.width": 0.125,
            "batch_size": 4,
        }
        | changes
    )
    return config.lock()


def expected_maps(devkit, weights, split, size=SIZE):
    """The last stage's output [N, h, w, C], photo by photo, without any of the task's code."""
    loaded = sources.load(str(weights))
    model = network.make_model(dataclasses.replace(loaded.architecture, num_classes=7))
    variables = convert.to_variables(loaded.tensors, network.shapes_of(model))

    @jax.jit
    def last_block(x):
        _, captured = model.apply(variables, x, norms_by_batch=(), capture_intermediates=True)
        return captured["intermediates"]["layer4_1"]["__call__"][0]

    maps = []
    for path in voc.read_split(devkit, split).paths:
        photo = images.resize(images.load_rgb(path), size, "squash", "bilinear")
        x = normalise(jnp.array(photo)[None], loaded.preprocessing)
        maps.append(np.asarray(last_block(x)[0]))
    return np.stack(maps)


def test_rows_are_the_photos_in_split_order(tmp_path, devkit, weights):
    features.run(make_config(devkit, weights), tmp_path / "run")
    path = tmp_path / "run" / "DF_ResNet18_VOC2007.npz"
    with np.load(path, allow_pickle=False) as file:
        assert {"X_train", "Y_train", "X_test", "Y_test"} <= set(file)
        assert file["X_train"].dtype == file["Y_train"].dtype == np.float32
        assert file["X_train"].shape == (11, 64)
    data = deep_features.read(path)
    assert data.classes == CLASSES
    for role, name in (("train", "trainval"), ("test", "test")):
        split = voc.read_split(devkit, name)
        assert data.splits[role].ids == split.ids
        np.testing.assert_array_equal(data.splits[role].labels, split.labels)
        np.testing.assert_array_equal(data.splits[role].difficult, split.difficult)
        expected = expected_maps(devkit, weights, name).mean(axis=(1, 2))
        np.testing.assert_allclose(
            data.splits[role].features, expected, atol=1e-4 * np.abs(expected).max(), rtol=0
        )
    assert data.meta["weights"]["sha256"] == sources.load(str(weights)).sha256
    assert data.meta["weights"]["preprocessing"]["resize"] == "squash"
    assert data.meta["data"]["splits"] == {"train": "trainval", "test": "test"}
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["num_images"] == {"train": 11, "test": 7}
    assert not list((tmp_path / "run").glob("unfinished*"))


@pytest.mark.full
@pytest.mark.parametrize("pooling", ["maximum", "both", "cells"])
def test_pooling_is_recorded_and_not_the_average(tmp_path, devkit, weights, pooling):
    config = make_config(devkit, weights, pooling=pooling, **{"data.image_size": 64})
    features.run(config, tmp_path / "run")
    data = deep_features.read(tmp_path / "run" / "DF_ResNet18_VOC2007.npz")
    assert data.meta["pooling"] == pooling
    maps = jnp.asarray(expected_maps(devkit, weights, "test", size=64))
    expected = np.asarray(head.pooled(head.Seen(maps), pooling))
    assert data.splits["test"].features.shape == expected.shape
    np.testing.assert_allclose(
        data.splits["test"].features, expected, atol=1e-4 * np.abs(expected).max(), rtol=0
    )


def test_a_grid_keeps_the_cells_apart(tmp_path, devkit, weights):
    config = make_config(devkit, weights, **{"data.image_size": 64, "pool": 2})
    features.run(config, tmp_path / "run")
    grid = deep_features.read(tmp_path / "run" / "DF_ResNet18_VOC2007.npz").splits["test"].features
    config = make_config(devkit, weights, **{"data.image_size": 64})
    features.run(config, tmp_path / "one")
    one = deep_features.read(tmp_path / "one" / "DF_ResNet18_VOC2007.npz").splits["test"].features
    assert grid.shape == (7, 4 * 64)
    cells = grid.reshape(7, 4, 64)
    # 64 pixels leave 2 x 2 positions, so each cell is one of them, and their mean is the pool's.
    np.testing.assert_allclose(cells.mean(axis=1), one, rtol=1e-4, atol=1e-5)
    assert np.abs(cells[:, 0] - cells[:, 3]).max() > 1e-3


def test_an_earlier_layer_is_another_width(tmp_path, devkit, weights):
    features.run(make_config(devkit, weights, layer="layer3"), tmp_path / "run")
    data = deep_features.read(tmp_path / "run" / "DF_ResNet18_VOC2007.npz")
    assert data.splits["test"].features.shape == (7, 32)


def test_what_is_done_is_not_done_again(tmp_path, devkit, weights, monkeypatch):
    config = make_config(devkit, weights)
    features.run(config, tmp_path / "uninterrupted")
    real, calls = batches.place, []

    def place_until_killed(array, rows, sharding):
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(array, rows, sharding)

    monkeypatch.setattr(extract, "BATCHES_BETWEEN_SAVES", 1)
    monkeypatch.setattr(batches, "place", place_until_killed)
    with pytest.raises(KeyboardInterrupt):
        features.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "DF_ResNet18_VOC2007.npz").exists()
    features.run(config, tmp_path / "run")
    # Three batches of train: two before, one after; then two of test.
    assert len(calls) == 3 + 1 + 2
    uninterrupted, resumed = (
        deep_features.read(tmp_path / name / "DF_ResNet18_VOC2007.npz")
        for name in ("uninterrupted", "run")
    )
    for role in ("train", "test"):
        left, right = uninterrupted.splits[role].features, resumed.splits[role].features
        assert left.tobytes() == right.tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": "layer5"}, "layer is 'layer5': choose one of layer1"),
        ({"pool": 0}, "pool must be at least 1, got 0"),
        ({"data.resize": "squish"}, "data.resize is 'squish': choose one of squash"),
        ({"data.image_size": -1}, "data.image_size must be at least 0, got -1"),
        ({"data.train_split": ""}, "data.train_split is empty"),
    ],
)
def test_bad_options(tmp_path, devkit, weights, changes, message):
    with pytest.raises(UserError, match=message):
        features.run(make_config(devkit, weights, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_features_of_random_weights_are_refused(tmp_path, devkit):
    with pytest.raises(UserError, match="weights is empty"):
        features.run(make_config(devkit, ""), tmp_path / "run")


def test_photos_of_similar_features_are_named(tmp_path, devkit, weights, monkeypatch, caplog):
    """Each photo has a like one where any will do; results and the file's meta count them."""
    monkeypatch.setattr(duplicates, "LEAST_PHOTOS", 0)
    monkeypatch.setattr(duplicates, "LEAST_COSINE", -1.0)
    features.run(make_config(devkit, weights), tmp_path / "run")
    rows = (tmp_path / "run" / "duplicates.csv").read_text().splitlines()[1:]
    assert len(rows) == 7
    counts = {kind: sum(row.startswith(kind) for row in rows) for kind in duplicates.KINDS}
    assert counts["similar features"] > 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["data"]["duplicates"] == {kind: n for kind, n in counts.items() if n}
    (path,) = (tmp_path / "run").glob("DF_*.npz")
    assert deep_features.read(path).meta["data"]["duplicates"] == results["data"]["duplicates"]
    assert "similar features" in caplog.text


def test_bfloat16_is_chosen_by_the_cpu_and_kept(tmp_path, devkit, weights, monkeypatch):
    """A run that was begun in it goes on in it; its features are float32's to two digits."""
    features.run(make_config(devkit, weights), tmp_path / "float32")
    monkeypatch.setattr(dtypes, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(dtypes, "speed_of_bfloat16", lambda: 2.0)
    config = make_config(devkit, weights, **{"model.dtype": "auto"})
    features.run(config, tmp_path / "auto")
    want, got = (
        deep_features.read(tmp_path / name / "DF_ResNet18_VOC2007.npz").splits["train"].features
        for name in ("float32", "auto")
    )
    assert 0 < np.abs(got - want).max() <= 2e-2 * np.abs(want).max()
    monkeypatch.setattr(dtypes, "cpu_has_bfloat16", lambda: False)
    again = make_config(devkit, weights, **{"model.dtype": "auto"})
    features.run(again, tmp_path / "auto")
    assert again.model.dtype == "bfloat16"
