"""A small writer of ONNX graphs: nodes and constants by name."""

import importlib
from typing import Any, NamedTuple

import numpy as np

from vtl.errors import UserError
from vtl.untrusted import printable, reason_of

OPSET = 18
"""The oldest with the reductions used here; ONNX Runtime reads it since 1.14."""

IR_VERSION = 9


def package(name: str) -> Any:
    """A package of the extra `export`, or one that the user installs.

    Raises:
        UserError: it is not installed, or broken.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = 'pip install -e ".[export]"'
        remedy = f"pip install {name}" if name in ("torch", "timm") else extra
        raise UserError(f"this needs {name}, which is not installed\nInstall it: {remedy}") from (
            error
        )
    # Such as a torchvision that was built for another torch.
    except Exception as error:
        raise UserError(
            f"this needs {name}, which is installed and can't be imported:\n"
            f"{printable(reason_of(error), 200)}"
        ) from error


class Graph:
    """Nodes in their order, and the constants that they read."""

    def __init__(self) -> None:
        self._onnx = package("onnx")
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def constant(self, name: str, array: Any) -> str:
        """A constant of the array's own type; returns its name."""
        if name not in self._constants:
            self._constants[name] = self._onnx.numpy_helper.from_array(np.asarray(array), name)
        return name

    def add(
        self, operation: str, name: str, *inputs: str, output: str = "", **attributes: Any
    ) -> str:
        """A node with one output, whose name it returns: the node's own unless `output` is one."""
        output = output or name
        self._nodes.append(
            self._onnx.helper.make_node(operation, list(inputs), [output], name=name, **attributes)
        )
        return output

    def cast(self, name: str, value: str, dtype: Any) -> str:
        """The value in NumPy's `dtype`."""
        to = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.add("Cast", name, value, to=to)

    def model(
        self,
        inputs: dict[str, tuple[Any, tuple[int | str, ...]]],
        outputs: dict[str, tuple[Any, tuple[int | str, ...]]],
        producer_version: str,
    ) -> Any:
        """The ONNX model; inputs and outputs are name -> (dtype, shape), a text is any length."""
        helper = self._onnx.helper

        def described(values: dict[str, tuple[Any, tuple[int | str, ...]]]) -> list[Any]:
            return [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape)
                )
                for name, (dtype, shape) in values.items()
            ]

        graph = helper.make_graph(
            self._nodes,
            "network",
            described(inputs),
            described(outputs),
            list(self._constants.values()),
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="vtl",
            producer_version=producer_version,
        )


class Seen(NamedTuple):
    """What a body gives its head in a graph, by name, as `models.head.Seen`."""

    maps: str
    """[N, C, *sides]."""
    sides: tuple[int, int]
    summary: str = ""
    """[N, C]."""
    points: str = ""
    """[N, C, *sides]."""

    def cast(self, graph: Graph, name: str, dtype: Any) -> "Seen":
        """All of it in NumPy's `dtype`."""
        maps, summary, points = (
            graph.cast(f"{name}/{what}", value, dtype) if value else ""
            for what, value in (
                ("maps", self.maps),
                ("summary", self.summary),
                ("points", self.points),
            )
        )
        return Seen(maps, self.sides, summary, points)
