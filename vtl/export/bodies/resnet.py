"""ResNet below its head: as an ONNX graph, and as torchvision and timm compute it."""

import dataclasses
from collections.abc import Callable
from typing import Any

from vtl.errors import UserError
from vtl.export import torch_head
from vtl.export.bodies.norms import folded, with_epsilon
from vtl.export.graph import Graph, Seen
from vtl.export.onnx_nodes import add_conv
from vtl.export.usage import TorchUsage
from vtl.models import HEAD
from vtl.models.resnet import DEPTHS, EPSILON, STAGES, Architecture
from vtl.weights.layouts.names import Tensors
from vtl.weights.sources import Weights

FAMILY = Architecture
IS_CONVOLUTIONAL = True
TORCH_EPSILON = EPSILON["v1.5"]
FIRST_KERNEL = "params/conv1/kernel"


def _own(weights: Weights) -> Architecture:
    assert isinstance(weights.architecture, Architecture)
    return weights.architecture


def add(graph: Graph, x: str, weights: Weights, dtype: str) -> Seen:
    """The stem and the four stages: [N, 3, S, S] -> the last stage's maps [N, C, s, s]."""
    own, tensors = _own(weights), weights.tensors

    def conv(x: str, name: str, norm: str, stride: int) -> str:
        return add_conv(graph, x, *folded(tensors, name, norm, own.epsilon), name, dtype, stride)

    x = graph.add("Relu", "stem/relu", conv(x, "conv1", "bn1", 2))
    x = graph.add("MaxPool", "stem", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    bottleneck, blocks = DEPTHS[own.depth]
    for stage, (name, num_blocks) in enumerate(zip(STAGES, blocks, strict=True)):
        for i in range(num_blocks):
            block, stride = f"{name}_{i}", 2 if stage > 0 and i == 0 else 1
            strides = strides_of(stride, bottleneck=bottleneck, variant=own.variant)
            y = x
            for n, its_stride in enumerate(strides, start=1):
                y = conv(y, f"{block}/conv{n}", f"{block}/bn{n}", its_stride)
                if n < len(strides):
                    y = graph.add("Relu", f"{block}/relu{n}", y)
            if f"params/{block}/downsample_0/kernel" in tensors:
                x = conv(x, f"{block}/downsample_0", f"{block}/downsample_1", stride)
            x = graph.add("Relu", block, graph.add("Add", f"{block}/sum", x, y))
    # conv1, the max-pool and three stages halve a side, rounding up.
    side = -(-weights.preprocessing.crop_size // 32)
    return Seen(x, (side, side))


def strides_of(stride: int, *, bottleneck: bool, variant: str) -> tuple[int, ...]:
    """The strides of a block's convolutions, as `models.resnet.Block` has them."""
    if not bottleneck:
        return stride, 1
    return (stride, 1, 1) if variant == "v1" else (1, stride, 1)


def check_torch(weights: Weights) -> None:
    """Refuse a network that torchvision's and timm's ResNets can't compute.

    Raises:
        UserError: it strides elsewhere (v1), or has another width.
    """
    own = _own(weights)
    if own.variant == "v1" and DEPTHS[own.depth].bottleneck:
        raise UserError(
            "torchvision's and timm's ResNets can't compute this network: its stride is in the "
            "first convolution of a block (v1, Keras)\nExport it as .onnx or .stablehlo."
        )
    if own.width != 1:
        raise UserError(
            f"torchvision's and timm's ResNets can't compute a network of width {own.width:g}\n"
            "Export it as .onnx or .stablehlo."
        )


def torch_architecture(weights: Weights) -> Architecture:
    """What torchvision makes of it."""
    return dataclasses.replace(_own(weights), variant="v1.5", epsilon=TORCH_EPSILON)


def torch_tensors(weights: Weights) -> Tensors:
    """With another epsilon than torchvision's in the variances."""
    return with_epsilon(weights.tensors, _own(weights).epsilon, TORCH_EPSILON)


def torch_usage(weights: Weights) -> TorchUsage:
    """What the user's own program says."""
    own = _own(weights)
    make = f"torchvision.models.resnet{own.depth}(num_classes={own.num_classes})"
    body = "torch.nn.Sequential(*list(model.children())[:-2])(x)"
    return TorchUsage("torchvision", make, body, "model.fc")


def torch_logits(torch: Any, state: dict[str, Any], weights: Weights) -> Callable[[Any], Any]:
    """Normalised photos [N, 3, S, S] -> logits [N, K], with torch alone."""
    head = torch_head.function(weights.architecture)

    def dense(x: Any) -> Any:
        return torch.nn.functional.linear(x, state[f"{HEAD}.weight"], state[f"{HEAD}.bias"])

    return lambda x: head(torch_maps(torch, state, x, weights), dense)


def timm_config(weights: Weights) -> dict[str, Any]:
    """What timm's config.json says of a ResNet alone."""
    side = -(-weights.preprocessing.crop_size // 32)
    return {
        "architecture": f"resnet{_own(weights).depth}",
        "global_pool": "avg",
        "pool_size": [side] * 2,
        "first_conv": "conv1",
        "classifier": HEAD,
    }


def torch_maps(torch: Any, state: dict[str, Any], x: Any, weights: Weights) -> Any:
    """torchvision's ResNet up to its last stage, by functions: [N, 3, H, W] -> [N, C, h, w]."""
    functional = torch.nn.functional

    def conv_norm(x: Any, conv: str, norm: str, stride: int) -> Any:
        kernel = state[f"{conv}.weight"]
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{norm}.{n}"] for n in names), eps=TORCH_EPSILON)

    x = functional.max_pool2d(torch.relu(conv_norm(x, "conv1", "bn1", 2)), 3, 2, padding=1)
    bottleneck, blocks = DEPTHS[_own(weights).depth]
    for stage, (name, num_blocks) in enumerate(zip(STAGES, blocks, strict=True)):
        for i in range(num_blocks):
            block, stride = f"{name}.{i}", 2 if stage > 0 and i == 0 else 1
            strides = strides_of(stride, bottleneck=bottleneck, variant="v1.5")
            y = x
            for n, its_stride in enumerate(strides, start=1):
                y = conv_norm(y, f"{block}.conv{n}", f"{block}.bn{n}", its_stride)
                y = torch.relu(y) if n < len(strides) else y
            if f"{block}.downsample.0.weight" in state:
                x = conv_norm(x, f"{block}.downsample.0", f"{block}.downsample.1", stride)
            x = torch.relu(x + y)
    return x
