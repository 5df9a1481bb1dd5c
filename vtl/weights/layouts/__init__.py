"""Where each tensor of other frameworks' networks goes: a module a family."""

from types import ModuleType

from vtl.models.architecture import Architecture
from vtl.weights.formats import WeightsFile
from vtl.weights.layouts import resnet

_LAYOUTS = (resnet,)
"""The last is taken if none recognises a file, and says what is wrong with it."""


def layout_of(file: WeightsFile) -> ModuleType:
    """The module that reads the names of a file's tensors."""
    return next((module for module in _LAYOUTS if module.recognises(file.tensors)), _LAYOUTS[-1])


def of(architecture: Architecture) -> ModuleType:
    """The module of an architecture's family."""
    return next(module for module in _LAYOUTS if module.FAMILY is type(architecture))
