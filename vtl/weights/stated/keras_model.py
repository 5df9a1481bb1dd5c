"""Keras' model_config: how a saved model prepares its pixels, and what its last layer gives."""

import math
from collections.abc import Iterator
from typing import Any

from vtl.models.architecture import Architecture
from vtl.weights.statement import NotThisNetwork, Statement

_MODELS = ("Functional", "Model", "Sequential")
_IDLE = {"InputLayer", "ZeroPadding2D", "Dropout", "SpatialDropout2D", "GaussianNoise"}
"""Layers before the first convolution that leave pixels as they are, in use."""

_OTHER_POOLS = {"GlobalMaxPooling2D", "GlobalMaxPool2D"}
_NORMALIZATION_EPSILON = 1e-7
_MAX_LAYERS = 20_000
_MAX_DEPTH = 8


def read(config: Any, implied: Architecture) -> Statement:
    """What a model's config says.

    Raises:
        NotThisNetwork: it is another network than the tensors imply.
        Exception: it holds something else than expected.
    """
    layers = list(_layers(config))
    convolutions = [i for i, (kind, _) in enumerate(layers) if kind == "Conv2D"]
    if not convolutions:
        raise ValueError("it has no convolution")
    pixels, unread = _pixels(layers[: convolutions[0]])
    return Statement(
        preprocessing=pixels,
        multi_label=_is_multi_label(layers[convolutions[-1] :]),
        architecture=_architecture(layers, implied),
        unread=unread,
    )


def _layers(model: Any, depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Class and config of every layer in the model's order, those of models inside it in place."""
    if depth > _MAX_DEPTH or len(model["config"]["layers"]) > _MAX_LAYERS:
        raise ValueError("it has more layers than any network")
    for layer in model["config"]["layers"]:
        if layer["class_name"] in _MODELS:
            yield from _layers(layer, depth + 1)
        else:
            yield str(layer["class_name"]), layer["config"]


def _pixels(layers: list[tuple[str, dict[str, Any]]]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fields of Preprocessing from what stands before the first convolution.

    y = pixel * scale + shift, by channel: Rescaling and Normalization change both.
    """
    scale, shift = [1.0] * 3, [0.0] * 3
    found: dict[str, Any] = {}
    is_scaled = False
    for kind, config in layers:
        if kind == "InputLayer":
            found |= _input_size(config)
        if kind in _IDLE or kind.startswith("Random"):
            continue
        if kind == "Rescaling":
            factor, offset = _by_channel(config["scale"]), _by_channel(config.get("offset", 0))
        elif (
            kind == "Normalization" and config.get("mean") is not None and not config.get("invert")
        ):
            deviation = [math.sqrt(v) for v in _by_channel(config["variance"])]
            factor = [1 / max(d, _NORMALIZATION_EPSILON) for d in deviation]
            mean = _by_channel(config["mean"])
            offset = [-m * f for m, f in zip(mean, factor, strict=True)]
        else:
            # A Lambda, an operation, a layer of somebody's own: its pixels are anything.
            return {}, (f"what its layer {kind} does to pixels",)
        is_scaled = True
        scale = [s * f for s, f in zip(scale, factor, strict=True)]
        shift = [s * f + o for s, f, o in zip(shift, factor, offset, strict=True)]
    if is_scaled:
        # (pixel * scale[0] - mean) / std, where std makes up for the other channels' scales.
        std = [scale[0] / s for s in scale]
        mean = [-s * d for s, d in zip(shift, std, strict=True)]
        found |= {"channels": "rgb", "scale": scale[0], "mean": mean, "std": std}
    return found, ()


def _by_channel(value: Any) -> list[float]:
    """One number for each of three channels, from one, three, or three in lists of one."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3:
        raise ValueError("it prepares other channels than three")
    return [float(x) for x in values]


def _input_size(config: dict[str, Any]) -> dict[str, Any]:
    shape = config.get("batch_shape") or config.get("batch_input_shape") or (None,) * 4
    height, width = shape[1:3]
    return {"crop_size": height} if height and height == width else {}


def _is_multi_label(layers: list[tuple[str, dict[str, Any]]]) -> bool | None:
    """Whether the last layer's activation is a sigmoid; None if there is no dense one."""
    activations = [
        config.get("activation") for kind, config in layers if kind in ("Dense", "Activation")
    ]
    dense = [kind for kind, _ in layers if kind == "Dense"]
    return activations[-1] == "sigmoid" if dense else None


def _architecture(
    layers: list[tuple[str, dict[str, Any]]], implied: Architecture
) -> dict[str, Any]:
    """Fields of Architecture, where they may be others than the layout's."""
    for kind, config in layers:
        if kind == "Conv2D" and set(_pair(config.get("dilation_rate", 1))) != {1}:
            raise NotThisNetwork("dilated convolutions: vtl has no such ResNet")
        if kind == "Conv2D" and config.get("groups", 1) != 1:
            raise NotThisNetwork("grouped convolutions: vtl has no such ResNet")
        if kind in _OTHER_POOLS:
            raise NotThisNetwork(f"{kind} before the head: vtl averages")
    epsilons = {config.get("epsilon") for kind, config in layers if kind == "BatchNormalization"}
    if len(epsilons) > 1:
        raise NotThisNetwork("BatchNorms with different epsilons: vtl has one for all")
    (epsilon,) = epsilons or {None}
    return {} if epsilon is None else {"epsilon": float(epsilon)}


def _pair(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)
