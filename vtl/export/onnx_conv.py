"""Convolutions as ONNX nodes, with their BatchNorm inside."""

import numpy as np

from vtl.errors import UserError
from vtl.export.graph import Graph
from vtl.untrusted import printable
from vtl.weights.layouts.names import Tensors


def add_conv(
    graph: Graph,
    x: str,
    kernel: np.ndarray,
    bias: np.ndarray,
    name: str,
    dtype: str,
    stride: int,
    *,
    pads: tuple[int, int] | None = None,
    groups: int = 1,
) -> str:
    """A convolution [O, I, K, K] that is padded by K // 2, or by `pads` before and after.

    Raises:
        UserError: its numbers are too large for `dtype`.
    """
    for array in (kernel, bias):
        if not np.isfinite(array.astype(dtype)).all():
            raise UserError(f"{printable(name, 60)} has numbers too large for {dtype}")
    before, after = pads or (kernel.shape[-1] // 2,) * 2
    return graph.add(
        "Conv",
        name,
        x,
        graph.constant(f"{name}.weight", kernel.astype(dtype)),
        graph.constant(f"{name}.bias", bias.astype(dtype)),
        kernel_shape=kernel.shape[2:],
        strides=[stride, stride],
        pads=[before, before, after, after],
        group=groups,
    )


def folded(tensors: Tensors, conv: str, norm: str, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """A convolution with its BatchNorm inside: kernel [O, I, H, W] and bias [O], float64."""
    kernel = tensors[f"params/{conv}/kernel"].astype(np.float64)
    scale, bias, mean, var = (
        tensors[f"{collection}/{norm}/{name}"].astype(np.float64)
        for collection, name in (
            *(("params", "scale"), ("params", "bias")),
            *(("batch_stats", "mean"), ("batch_stats", "var")),
        )
    )
    multiplier = scale / np.sqrt(var + epsilon)
    return (kernel * multiplier).transpose(3, 2, 0, 1), bias - mean * multiplier
