"""The head of `models.head` as ONNX nodes: pooling, transform, regions, the dense layer."""

import math

import numpy as np

from vtl.export.graph import Graph, Seen
from vtl.models import HEAD
from vtl.models.architecture import Architecture
from vtl.models.head import PAIRS

CELLS = 2
SMALL = 1e-6
"""As in `models.head`."""


def add_head(
    graph: Graph,
    seen: Seen,
    architecture: Architecture,
    kernel: np.ndarray,
    bias: np.ndarray,
    *,
    output: str,
) -> None:
    """What the head sees, kernel [D, K], bias [K], all float32 -> the logits [N, K], `output`."""
    pooling, regions = architecture.pooling, architecture.regions
    views = [_pooled(graph, seen, pooling, f"{HEAD}/whole")]
    for name, cell in _cells(graph, seen, regions, f"{HEAD}/region"):
        views.append(_pooled(graph, cell, pooling, name))
    features = views[0]
    if regions:
        axis = graph.constant(f"{HEAD}/axis1", np.array([1], np.int64))
        rows = [graph.add("Unsqueeze", f"{view}/row", view, axis) for view in views]
        features = graph.add("Concat", f"{HEAD}/views", *rows, axis=1)
    features = _transformed(graph, features, architecture.transform)
    weight = graph.constant(f"{HEAD}.weight", kernel.astype(np.float32))
    added = graph.constant(f"{HEAD}.bias", bias.astype(np.float32))
    product = graph.add("MatMul", f"{HEAD}/product", features, weight)
    if not regions:
        graph.add("Add", f"{HEAD}/logits", product, added, output=output)
        return
    logits = graph.add("Add", f"{HEAD}/by_view", product, added)
    whole = _slice(graph, logits, (0,), (1,), (1,), f"{HEAD}/of_whole")
    cells = _slice(graph, logits, (1,), (1 + regions * regions,), (1,), f"{HEAD}/of_regions")
    whole = graph.add("Squeeze", f"{HEAD}/of_whole_row", whole, axis)
    best = graph.add("ReduceMax", f"{HEAD}/of_best", cells, axis, keepdims=0)
    total = graph.add("Add", f"{HEAD}/of_both", whole, best)
    half = graph.constant(f"{HEAD}/half", np.float32(0.5))
    graph.add("Mul", f"{HEAD}/logits", total, half, output=output)


def _pooled(graph: Graph, seen: Seen, pooling: str, name: str) -> str:
    """What is seen -> [N, D]."""
    axes = graph.constant(f"{HEAD}/axes", np.array([2, 3], np.int64))
    if pooling == "average":
        return graph.add("ReduceMean", f"{name}/average", seen.maps, axes, keepdims=0)
    if pooling == "maximum":
        return graph.add("ReduceMax", f"{name}/maximum", seen.maps, axes, keepdims=0)
    if pooling == "token":
        if seen.summary:
            return seen.summary
        return graph.add("ReduceMean", f"{name}/token", seen.points, axes, keepdims=0)
    if pooling in PAIRS:
        parts = [_pooled(graph, seen, part, name) for part in PAIRS[pooling]]
        return graph.add("Concat", f"{name}/{pooling}", *parts, axis=1)
    means = [
        _pooled(graph, cell, "average", cell_name)
        for cell_name, cell in _cells(graph, seen._replace(points=""), CELLS, f"{name}/cell")
    ]
    return graph.add("Max", f"{name}/cells", *means)


def _cells(graph: Graph, seen: Seen, grid: int, name: str) -> list[tuple[str, Seen]]:
    """The name and content of each cell of a grid, by rows; its summary is its points' mean."""
    height, width = seen.sides
    cells = []
    for row in range(grid):
        for column in range(grid):
            top, bottom = _edges(row, grid, height)
            left, right = _edges(column, grid, width)
            its_name = f"{name}{row}{column}"
            maps, points = (
                _slice(graph, value, (top, left), (bottom, right), (2, 3), f"{its_name}/{what}")
                if value
                else ""
                for what, value in (("maps", seen.maps), ("points", seen.points))
            )
            cells.append((its_name, Seen(maps, (bottom - top, right - left), points=points)))
    return cells


def _edges(place: int, grid: int, side: int) -> tuple[int, int]:
    return place * side // grid, math.ceil((place + 1) * side / grid)


def _slice(
    graph: Graph,
    value: str,
    starts: tuple[int, ...],
    ends: tuple[int, ...],
    axes: tuple[int, ...],
    name: str,
) -> str:
    bounds = [
        graph.constant(f"{name}/{what}", np.array(numbers, np.int64))
        for what, numbers in (("starts", starts), ("ends", ends), ("axes", axes))
    ]
    return graph.add("Slice", name, value, *bounds)


def _transformed(graph: Graph, features: str, transform: str) -> str:
    """features [..., D] as `models.head.transformed`."""
    if transform == "none":
        return features
    if transform == "sqrt_l2":
        small = graph.constant(f"{HEAD}/small", np.float32(SMALL))
        root = graph.constant(f"{HEAD}/root_of_small", np.float32(math.sqrt(SMALL)))
        sign = graph.add("Sign", f"{HEAD}/sign", features)
        size = graph.add("Abs", f"{HEAD}/size", features)
        raised = graph.add("Sqrt", f"{HEAD}/root", graph.add("Add", f"{HEAD}/more", size, small))
        lowered = graph.add("Sub", f"{HEAD}/root_from_0", raised, root)
        features = graph.add("Mul", f"{HEAD}/signed_root", sign, lowered)
    last = graph.constant(f"{HEAD}/last_axis", np.array([-1], np.int64))
    least = graph.constant(f"{HEAD}/least", np.float32(SMALL**2))
    squares = graph.add("Mul", f"{HEAD}/squares", features, features)
    total = graph.add("ReduceSum", f"{HEAD}/sum_of_squares", squares, last, keepdims=1)
    norm = graph.add("Sqrt", f"{HEAD}/norm", graph.add("Max", f"{HEAD}/bounded", total, least))
    return graph.add("Div", f"{HEAD}/divided", features, norm)
