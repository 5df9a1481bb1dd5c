"""EfficientNet-Lite below its head: as an ONNX graph, and in timm."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from vtl.errors import UserError
from vtl.export import torch_head
from vtl.export.bodies.norms import folded, with_epsilon
from vtl.export.graph import Graph, Seen, package
from vtl.export.onnx_nodes import add_conv
from vtl.export.usage import TorchUsage
from vtl.models import ops
from vtl.models.efficientnet_lite import EPSILON, Architecture, stages_of
from vtl.weights.layouts.names import Tensors
from vtl.weights.sources import Weights

FAMILY = Architecture
IS_CONVOLUTIONAL = True
FIRST_KERNEL = "params/conv_stem/kernel"
TIMM_EPSILON = {"same": EPSILON, "torch": 1e-5}
"""BatchNorm's in timm's `tf_efficientnet_lite*`, and in its `efficientnet_lite*`."""


def _own(weights: Weights) -> Architecture:
    assert isinstance(weights.architecture, Architecture)
    return weights.architecture


def add(graph: Graph, x: str, weights: Weights, dtype: str) -> Seen:
    """All convolutions: [N, 3, S, S] -> the last one's maps [N, C, s, s]."""
    own, side = _own(weights), weights.preprocessing.crop_size
    bounds = [graph.constant(f"relu6/{n}", np.array(n, dtype)) for n in (0, 6)]

    def conv(x: str, name: str, norm: str, stride: int = 1, *, relu: bool = True) -> str:
        kernel, bias = folded(weights.tensors, name, norm, own.epsilon)
        size, is_depthwise = kernel.shape[-1], kernel.shape[1] == 1
        pads = ops.padding_of(side, size, stride, own.padding)
        groups = len(kernel) if is_depthwise else 1
        y = add_conv(graph, x, kernel, bias, name, dtype, stride, pads=pads, groups=groups)
        return graph.add("Clip", f"{name}/relu6", y, *bounds) if relu else y

    x, side = conv(x, "conv_stem", "bn1", 2), -(-side // 2)
    for index, stage in enumerate(stages_of(own.size, own.width)):
        for i in range(stage.blocks):
            block, stride, y = f"blocks_{index}_{i}", stage.stride if i == 0 else 1, x
            is_wider = stage.expansion > 1
            if is_wider:
                y = conv(y, f"{block}/conv_pw", f"{block}/bn1")
            y = conv(y, f"{block}/conv_dw", f"{block}/bn{1 + is_wider}", stride)
            last = "conv_pwl" if is_wider else "conv_pw"
            y = conv(y, f"{block}/{last}", f"{block}/bn{2 + is_wider}", relu=False)
            x = graph.add("Add", block, x, y) if i else y
            side = -(-side // stride)
    return Seen(conv(x, "conv_head", "bn2"), (side, side))


def check_torch(weights: Weights) -> None:
    """Refuse a network that timm doesn't have.

    Raises:
        UserError: it has another width.
    """
    if _own(weights).width != 1:
        raise UserError(
            f"timm has no EfficientNet-Lite of width {_own(weights).width:g}\n"
            "Export it as .onnx or .stablehlo."
        )


def torch_architecture(weights: Weights) -> Architecture:
    """What timm makes of it."""
    own = _own(weights)
    return dataclasses.replace(own, epsilon=TIMM_EPSILON[own.padding])


def torch_tensors(weights: Weights) -> Tensors:
    """With another epsilon than timm's in the variances."""
    own = _own(weights)
    return with_epsilon(weights.tensors, own.epsilon, TIMM_EPSILON[own.padding])


def _timm_name(own: Architecture) -> str:
    return f"{'tf_' if own.padding == 'same' else ''}efficientnet_lite{own.size}"


def torch_usage(weights: Weights) -> TorchUsage:
    """What the user's own program says."""
    own = _own(weights)
    make = f'timm.create_model("{_timm_name(own)}", num_classes={own.num_classes})'
    return TorchUsage("timm", make, "model.forward_features(x)", "model.classifier")


def torch_logits(torch: Any, state: dict[str, Any], weights: Weights) -> Callable[[Any], Any]:
    """Normalised photos [N, 3, S, S] -> logits [N, K], by timm itself.

    Raises:
        UserError: timm is not installed.
    """
    own = _own(weights)
    model = package("timm").create_model(_timm_name(own), num_classes=own.num_classes).eval()
    model.classifier = torch.nn.Linear(own.num_features, own.num_classes)
    model.load_state_dict(state)
    head = torch_head.function(own)
    return lambda x: head(model.forward_features(x), model.classifier)


def timm_config(weights: Weights) -> dict[str, Any]:
    """What timm's config.json says of this family alone."""
    own = _own(weights)
    return {
        "architecture": _timm_name(own),
        "global_pool": "avg",
        "first_conv": "conv_stem",
        "classifier": "classifier",
    }
