"""Resizing as Pillow does it, as ONNX nodes: two matrix products, each rounded to whole numbers.

ONNX's own Resize is another thing in each runtime: OpenVINO disregards `antialias`, and ONNX
Runtime's is several counts from Pillow in float32. A product with the matrix of Pillow's filter is
the same everywhere. Its entries come from whole numbers, so that they are exact.
"""

import numpy as np

from vtl.export.graph import Graph
from vtl.preprocessing import Preprocessing

SCOPE = "pixels/"


def add_resize(graph: Graph, images: str, preprocessing: Preprocessing) -> str:
    """images [N, H, W, 3] uint8 -> what the network sees, [N, 3, S, S] float32, whole 0..255."""
    shape = graph.add("Shape", f"{SCOPE}shape", images)
    lengths = {
        name: _at(graph, shape, place, name) for name, place in (("height", 1), ("width", 2))
    }
    shorter = graph.add("Min", f"{SCOPE}shorter", *lengths.values())
    places = {
        name: _places(graph, length, shorter, name, preprocessing)
        for name, length in lengths.items()
    }
    x = graph.add("Transpose", f"{SCOPE}channels_first", images, perm=[0, 3, 1, 2])
    if preprocessing.interpolation == "nearest":
        for name, axis in (("width", 3), ("height", 2)):
            nearest = _nearest(graph, lengths[name], *places[name], name)
            x = graph.add("Gather", f"{SCOPE}nearest_{name}", x, nearest, axis=axis)
        return graph.cast(f"{SCOPE}float", x, np.float32)
    x = graph.cast(f"{SCOPE}float", x, np.float32)
    kind = preprocessing.interpolation
    across, down = (
        _filter(graph, lengths[name], *places[name], name, kind) for name in ("width", "height")
    )
    turned = graph.add("Transpose", f"{SCOPE}turned", across, perm=[1, 0])
    x = graph.add("MatMul", f"{SCOPE}narrowed", x, turned)
    x = _whole(graph, x, f"{SCOPE}of_width")
    x = graph.add("MatMul", f"{SCOPE}lowered", down, x)
    return _whole(graph, x, f"{SCOPE}of_height")


def _number(graph: Graph, value: int) -> str:
    return graph.constant(f"{SCOPE}number_{value}", np.array([value], np.int64))


def _at(graph: Graph, shape: str, place: int, name: str) -> str:
    index = _number(graph, place)
    return graph.add("Gather", f"{SCOPE}{name}", shape, index, axis=0)


def _places(
    graph: Graph, length: str, shorter: str, name: str, preprocessing: Preprocessing
) -> tuple[str, str]:
    """A side's length once resized, [1], and the places on it that the network sees, [S, 1]."""
    crop, side = preprocessing.crop_size, preprocessing.stored_size(crops=False)
    seen = graph.constant(f"{SCOPE}seen", np.arange(crop, dtype=np.int64)[:, None])
    resized, first = _number(graph, side), _number(graph, round((side - crop) / 2))
    if preprocessing.resize == "resize_crop":
        enlarged = graph.add("Mul", f"{SCOPE}{name}_enlarged", length, resized)
        left_over = graph.add("Div", f"{SCOPE}{name}_resized", enlarged, shorter)
        beyond = graph.add("Sub", f"{SCOPE}{name}_beyond", left_over, resized)
        half = graph.add(
            "Mul",
            f"{SCOPE}{name}_half",
            graph.cast(f"{SCOPE}{name}_beyond_float", beyond, np.float32),
            graph.constant(f"{SCOPE}half", np.float32(0.5)),
        )
        # A half goes to the even number, as Python's round has it.
        rounded = graph.add("Round", f"{SCOPE}{name}_rounded", half)
        cut = graph.cast(f"{SCOPE}{name}_cut", rounded, np.int64)
        first = graph.add("Add", f"{SCOPE}{name}_first", cut, first)
        resized = left_over
    return resized, graph.add("Add", f"{SCOPE}{name}_seen", seen, first)


def _centres(graph: Graph, length: str, places: str, name: str) -> str:
    """(2 place + 1) * length, [S, 1]: the middle of each place in 1 / (2 resized) of a pixel."""
    two, one = _number(graph, 2), _number(graph, 1)
    doubled = graph.add("Mul", f"{SCOPE}{name}_doubled", places, two)
    odd = graph.add("Add", f"{SCOPE}{name}_odd", doubled, one)
    return graph.add("Mul", f"{SCOPE}{name}_centres", odd, length)


def _nearest(graph: Graph, length: str, resized: str, places: str, name: str) -> str:
    """The pixel that each place lies in, [S]."""
    centres = _centres(graph, length, places, name)
    twice = graph.add("Mul", f"{SCOPE}{name}_twice", resized, _number(graph, 2))
    pixels = graph.add("Div", f"{SCOPE}{name}_pixels", centres, twice)
    axis = _number(graph, 1)
    return graph.add("Squeeze", f"{SCOPE}{name}_nearest", pixels, axis)


def _filter(graph: Graph, length: str, resized: str, places: str, name: str, kind: str) -> str:
    """The matrix [S, length] of Pillow's antialiased filter (src/libImaging/Resample.c)."""
    scope = f"{SCOPE}{name}_"
    centres = _centres(graph, length, places, name)
    no_axis = graph.constant(f"{SCOPE}no_axis", np.array([0], np.int64))
    bounds = (
        graph.constant(f"{SCOPE}zero", np.int64(0)),
        graph.add("Squeeze", f"{scope}end", length, no_axis),
        graph.constant(f"{SCOPE}one", np.int64(1)),
    )
    two, one = _number(graph, 2), _number(graph, 1)
    pixels = graph.add("Range", f"{scope}range", *bounds)
    odd = graph.add("Add", f"{scope}pixels", graph.add("Mul", f"{scope}even", pixels, two), one)
    middles = graph.add("Mul", f"{scope}middles", odd, resized)
    apart = graph.add("Sub", f"{scope}apart", middles, centres)
    longer = graph.add("Max", f"{scope}longer", length, resized)
    unit = graph.add("Mul", f"{scope}unit", longer, two)
    distance = graph.add(
        "Div",
        f"{scope}distance",
        graph.cast(f"{scope}apart_float", graph.add("Abs", f"{scope}size", apart), np.float32),
        graph.cast(f"{scope}unit_float", unit, np.float32),
    )
    heights = {"bilinear": _triangle, "bicubic": _cubic}[kind](graph, distance, scope)
    total = graph.add("ReduceSum", f"{scope}total", heights, one, keepdims=1)
    return graph.add("Div", f"{scope}filter", heights, total)


def _triangle(graph: Graph, distance: str, scope: str) -> str:
    """max(0, 1 - d)."""
    one, zero = (graph.constant(f"{SCOPE}{n}.0", np.float32(n)) for n in (1, 0))
    falling = graph.add("Sub", f"{scope}falling", one, distance)
    return graph.add("Max", f"{scope}heights", falling, zero)


_CUBIC = {"near": (1.5, -2.5, 0.0, 1.0), "far": (-0.5, 2.5, -4.0, 2.0)}
"""Of the cubic filter with a = -0.5, below a distance of 1 and from there to 2."""


def _cubic(graph: Graph, distance: str, scope: str) -> str:
    def polynomial(part: str) -> str:
        first, *rest = _CUBIC[part]
        value = graph.constant(f"{SCOPE}{part}_0", np.float32(first))
        for n, coefficient in enumerate(rest, start=1):
            number = graph.constant(f"{SCOPE}{part}_{n}", np.float32(coefficient))
            product = graph.add("Mul", f"{scope}{part}_times_{n}", value, distance)
            value = graph.add("Add", f"{scope}{part}_plus_{n}", product, number)
        return value

    one, two, zero = (graph.constant(f"{SCOPE}{n}.0", np.float32(n)) for n in (1, 2, 0))
    is_near = graph.add("Less", f"{scope}is_near", distance, one)
    is_far = graph.add("Less", f"{scope}is_far", distance, two)
    far = graph.add("Where", f"{scope}outer", is_far, polynomial("far"), zero)
    return graph.add("Where", f"{scope}heights", is_near, polynomial("near"), far)


def _whole(graph: Graph, x: str, name: str) -> str:
    """Rounded, halves up, and within 0..255, as 8-bit pixels are."""
    half = graph.constant(f"{SCOPE}half", np.float32(0.5))
    low, high = (graph.constant(f"{SCOPE}{n}.0", np.float32(n)) for n in (0, 255))
    rounded = graph.add("Floor", f"{name}_rounded", graph.add("Add", f"{name}_raised", x, half))
    return graph.add("Clip", name, rounded, low, high)
