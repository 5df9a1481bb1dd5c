"""Convolutions as ONNX nodes."""

import numpy as np

from vtl.errors import UserError
from vtl.export.graph import Graph
from vtl.untrusted import printable


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
    before, after = pads or (kernel.shape[-1] // 2,) * 2
    return graph.add(
        "Conv",
        name,
        x,
        constant(graph, f"{name}.weight", kernel, dtype),
        constant(graph, f"{name}.bias", bias, dtype),
        kernel_shape=kernel.shape[2:],
        strides=[stride, stride],
        pads=[before, before, after, after],
        group=groups,
    )


def constant(graph: Graph, name: str, array: np.ndarray, dtype: str) -> str:
    """A constant of the network in `dtype`.

    Raises:
        UserError: its numbers are too large for it.
    """
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if not np.isfinite(cast).all():
        raise UserError(f"{printable(name, 60)} has numbers too large for {dtype}")
    return graph.constant(name, cast)
