"""A Keras model's own config: what its layers do to pixels, and what its last one gives."""

import dataclasses

import jax
import numpy as np
import pytest

from vtl.models.resnet import Architecture
from vtl.preprocessing import CAFFE, normalise
from vtl.weights import network, sources, stated
from vtl.weights.stated import keras_model
from vtl.weights.statement import NotThisNetwork

KERAS = Architecture(50, 1.0, "v1", 1.001e-5, num_classes=3)
CONV = ("Conv2D", {"dilation_rate": [1, 1], "groups": 1})


def model(*layers, name="Functional"):
    listed = [{"class_name": kind, "config": config} for kind, config in layers]
    return {"class_name": name, "config": {"layers": listed}}


def pixels_of(*layers):
    statement = keras_model.read(model(*layers, CONV), KERAS)
    return stated.prepared(statement, CAFFE)[0], statement.unread


def test_rescaling_and_normalization_are_the_pixels():
    shape = ("InputLayer", {"batch_shape": [None, 64, 64, 3]})
    found, unread = pixels_of(
        shape,
        ("RandomFlip", {}),
        ("Rescaling", {"scale": 1 / 127.5, "offset": -1}),
        ("ZeroPadding2D", {}),
    )
    assert unread == ()
    assert (found.channels, found.scale, found.mean, found.std) == (
        *("rgb", 1 / 127.5),
        *((1.0,) * 3, (1.0,) * 3),
    )
    assert (found.crop_size, found.resize_size) == (64, 73)
    statistics = {"mean": [[[0.485, 0.456, 0.406]]], "variance": [0.04, 0.09, 0.16]}
    found, _ = pixels_of(("Rescaling", {"scale": 1 / 255}), ("Normalization", statistics))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 2, 2, 3), np.uint8)
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.2, 0.3, 0.4]
    np.testing.assert_allclose(normalise(pixels, found), expected, rtol=1e-5, atol=1e-6)


def test_a_model_inside_a_model_is_read_in_place():
    inner = model(("Rescaling", {"scale": 1 / 255}), CONV)
    outer = model(("InputLayer", {}), (inner["class_name"], inner["config"]), name="Sequential")
    assert keras_model.read(outer, KERAS).preprocessing["scale"] == 1 / 255


def test_without_such_layers_nothing_is_said():
    found, unread = pixels_of(("InputLayer", {"batch_shape": [None, None, None, 3]}))
    assert (found, unread) == (CAFFE, ())


@pytest.mark.parametrize("kind", ["Lambda", "TFOpLambda", "GetItem", "Resizing", "MyOwn"])
def test_what_another_layer_does_to_pixels_is_unread(kind):
    found, unread = pixels_of(("Rescaling", {"scale": 1 / 255}), (kind, {}))
    assert found == CAFFE
    assert unread == (f"what its layer {kind} does to pixels",)


@pytest.mark.parametrize(
    ("layers", "several"),
    [
        ([("Dense", {"activation": "sigmoid"})], True),
        ([("Dense", {"activation": "softmax"})], False),
        ([("Dense", {"activation": "linear"}), ("Activation", {"activation": "sigmoid"})], True),
        ([], None),
    ],
)
def test_the_last_activation_says_how_a_head_is_scored(layers, several):
    assert keras_model.read(model(CONV, *layers), KERAS).multi_label is several


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (("Conv2D", {"dilation_rate": [2, 2]}), "dilated convolutions"),
        (("Conv2D", {"groups": 32}), "grouped convolutions"),
        (("GlobalMaxPooling2D", {}), "GlobalMaxPooling2D before the head"),
    ],
)
def test_another_network_is_named(layer, message):
    with pytest.raises(NotThisNetwork, match=message):
        keras_model.read(model(CONV, layer), KERAS)


def test_the_norms_epsilon_is_the_models():
    norms = [("BatchNormalization", {"epsilon": 1e-3})] * 2
    assert keras_model.read(model(CONV, *norms), KERAS).architecture == {"epsilon": 1e-3}


@pytest.mark.parametrize("config", [None, [], {"config": 3}, model(), model(("Dense", {}))])
def test_configs_of_something_else_raise(config):
    with pytest.raises((TypeError, KeyError, ValueError, AttributeError)):
        keras_model.read(config, KERAS)


def test_models_in_models_without_end():
    inner = model(CONV)
    for _ in range(50):
        inner = model((inner["class_name"], inner["config"]))
    with pytest.raises(ValueError, match="more layers than any network"):
        keras_model.read(inner, KERAS)


@pytest.mark.parity
@pytest.mark.full
def test_a_saved_model_gives_keras_own_scores(tmp_path, monkeypatch):
    """Its pixels in -1..1, its size, its sigmoid: as Keras' `predict` of the raw photos."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    photo = keras.Input((64, 64, 3))
    pixels = keras.layers.Rescaling(1 / 127.5, offset=-1)(photo)
    body = keras.applications.ResNet50(
        weights=None, include_top=False, pooling="avg", input_tensor=pixels
    )
    head = keras.layers.Dense(3, activation="sigmoid", name="predictions")(body.output)
    whole = keras.Model(photo, head)
    photos = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    expected = whole.predict(photos.astype(np.float32), verbose=0)
    for name in ("m.keras", "m.h5"):
        whole.save(tmp_path / name)
        weights = sources.load(str(tmp_path / name))
        assert weights.multi_label
        assert weights.given_by == "its model_config"
        assert dataclasses.replace(weights.preprocessing, resize="squash").crop_size == 64
        network_, variables = network.as_published(weights)
        inputs = normalise(photos, weights.preprocessing)
        logits, _ = network_.apply(variables, inputs, norms_by_batch=())
        np.testing.assert_allclose(jax.nn.sigmoid(logits), expected, atol=1e-5)
