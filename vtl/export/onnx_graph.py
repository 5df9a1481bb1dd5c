"""The whole network as an ONNX graph, from uint8 pixels to probabilities, by the weight table."""

from typing import Any

import numpy as np

import vtl
from vtl.errors import UserError
from vtl.export import bodies
from vtl.export.graph import Graph
from vtl.export.onnx_head import add_head
from vtl.export.onnx_resize import add_resize
from vtl.models import HEAD
from vtl.preprocessing import Preprocessing
from vtl.weights.sources import Weights

IMAGES, PROBABILITIES, LOGITS = "images", "probabilities", "logits"

FIRST, LAST = "pixels/", f"{HEAD}/"
"""How the names of the nodes before the convolutions and after them begin."""

MAX_BYTES = (1 << 31) - (1 << 20)
"""Of a file without others beside it: protobuf's limit, less a MiB for what isn't weights."""


def make(weights: Weights, *, dtype: str = "float32", resizes: bool = False) -> Any:
    """The ONNX model of a network with a head.

    Input `images` [N, S, S, 3] uint8, S the crop size, or [N, H, W, 3] if it `resizes`; outputs
    `probabilities` [N, C] float32, calibrated if the network is, and `logits` [N, C] float32 before
    calibration. With dtype="float16" the convolutions and what is between them are float16.

    Raises:
        UserError: it would be larger than an ONNX file can be, or has no room in `dtype`.
    """
    own = weights.architecture
    size = sum(tensor.size for tensor in weights.tensors.values()) * np.dtype(dtype).itemsize
    if size > MAX_BYTES:
        raise UserError(
            f"the network takes {size:,} bytes, and an ONNX file holds 2 GiB: "
            "export it as .stablehlo"
        )
    graph, crop = Graph(), weights.preprocessing.crop_size
    if resizes:
        pixels = add_resize(graph, IMAGES, weights.preprocessing)
    else:
        images = graph.cast(f"{FIRST}float", IMAGES, np.float32)
        pixels = graph.add("Transpose", f"{FIRST}channels_first", images, perm=[0, 3, 1, 2])
    x = _normalise(graph, pixels, weights.preprocessing)
    if dtype != "float32":
        x = graph.cast(f"{FIRST}{dtype}", x, dtype)
    seen = bodies.of(weights).add(graph, x, weights, dtype)
    if dtype != "float32":
        seen = seen.cast(graph, f"{LAST}seen", np.float32)
    kernel, bias = (weights.tensors[f"params/{HEAD}/{name}"] for name in ("kernel", "bias"))
    add_head(graph, seen, own, kernel, bias, output=LOGITS)
    _add_probabilities(graph, weights)
    shape = ("N", "H", "W", 3) if resizes else ("N", crop, crop, 3)
    of_classes = (np.float32, ("N", own.num_classes or 0))
    return graph.model(
        {IMAGES: (np.uint8, shape)},
        {PROBABILITIES: of_classes, LOGITS: of_classes},
        vtl.__version__,
    )


def _normalise(graph: Graph, pixels: str, preprocessing: Preprocessing) -> str:
    """Pixels [N, 3, S, S] 0..255 -> the network's input, as `preprocessing.normalise`.

    It stays apart from the first convolution: that one's padding is 0 after normalisation.
    """
    if preprocessing.channels == "bgr":
        order = graph.constant(f"{FIRST}bgr", np.array([2, 1, 0], np.int64))
        pixels = graph.add("Gather", f"{FIRST}channels", pixels, order, axis=1)
    std = np.array(preprocessing.std)
    by_channel = {
        "scale": preprocessing.scale / std,
        "shift": -np.array(preprocessing.mean) / std,
    }
    scale, shift = (
        graph.constant(f"{FIRST}{name}", values.astype(np.float32).reshape(1, 3, 1, 1))
        for name, values in by_channel.items()
    )
    scaled = graph.add("Mul", f"{FIRST}scaled", pixels, scale)
    return graph.add("Add", f"{FIRST}normalised", scaled, shift)


def _add_probabilities(graph: Graph, weights: Weights) -> None:
    """The activation of the calibrated logits."""
    calibrated, decisions = LOGITS, weights.decisions
    if decisions:
        slopes, intercepts = (
            graph.constant(f"{LAST}{name}", np.array(values, np.float32))
            for name, values in (
                ("slopes", decisions.slopes),
                ("intercepts", decisions.intercepts),
            )
        )
        scaled = graph.add("Mul", f"{LAST}scaled", LOGITS, slopes)
        calibrated = graph.add("Add", f"{LAST}calibrated", scaled, intercepts)
    if weights.multi_label:
        graph.add("Sigmoid", f"{LAST}sigmoid", calibrated, output=PROBABILITIES)
    else:
        graph.add("Softmax", f"{LAST}softmax", calibrated, output=PROBABILITIES, axis=1)
