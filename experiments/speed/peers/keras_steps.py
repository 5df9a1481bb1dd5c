"""ResNet-50's steps as a Keras user writes them, on Keras' JAX backend.

keras.applications' ResNet-50 is v1, in which a stage strides in its first 1x1 convolution. It has
3.9 G multiply-adds at 224 pixels; ours has 4.1.
"""

import functools
import os
import re

os.environ["KERAS_BACKEND"] = "jax"

import keras

from experiments.speed import bench


def makers(setting: bench.Setting) -> bench.Makers:
    """Every step, by predict_on_batch and train_on_batch."""
    policy = "mixed_bfloat16" if setting.dtype == "bfloat16" else "float32"
    keras.config.set_dtype_policy(policy)
    images = keras.ops.convert_to_tensor(setting.images)
    labels = keras.ops.convert_to_tensor(setting.labels, "float32")

    def new_model(pattern: str, batch_norm: str) -> keras.Model:
        shape = (setting.image_size, setting.image_size, 3)
        backbone = keras.applications.ResNet50(
            weights=None, include_top=False, pooling="avg", input_shape=shape
        )
        for layer in backbone.layers:
            layer.trainable = re.fullmatch(pattern, _our_name(layer.name)) is not None
        inputs = keras.Input(shape, dtype="uint8")
        pixels = keras.ops.cast(inputs, "float32")
        pixels = keras.applications.resnet50.preprocess_input(pixels)
        # A BatchNorm's scale and shift train in inference mode, too, but not if the layer is not
        # trainable.
        mode = None if batch_norm == "batch" else False
        features = backbone(pixels, training=mode)
        head = keras.layers.Dense(bench.NUM_CLASSES, activation="sigmoid", dtype="float32")
        return keras.Model(inputs, head(features))

    def evaluation() -> bench.Step:
        model = new_model(".*", "frozen")

        def step() -> None:
            for _ in range(setting.in_flight):
                model.predict_on_batch(images)  # waits, as Keras' users do

        return step

    def training(pattern: str, batch_norm: str) -> bench.Step:
        model = new_model(pattern, batch_norm)
        model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), "binary_crossentropy")

        def step() -> None:
            for _ in range(setting.in_flight):
                model.train_on_batch(images, labels)

        return step

    regimes = {name: functools.partial(training, *of) for name, of in bench.REGIMES.items()}
    return {bench.EVALUATION: evaluation, **regimes}


def _our_name(layer: str) -> str:
    """Keras' `conv5_block1_1_conv` -> `layer4_block1_1_conv`."""
    return re.sub("^conv([2-5])_", lambda match: f"layer{int(match[1]) - 1}_", layer)
