"""torchvision beside any PyTorch: timm and transformers import all of it."""

import contextlib
import importlib
import sys

import torch

_OPERATIONS = torch.library.Library("torchvision", "FRAGMENT")


def load() -> None:
    """Import it whatever PyTorch it was built for.

    PyPI's wheels are built for CUDA. Beside a PyTorch for CPUs they can't load their operations,
    which no network here needs, and then fail to describe two of them.
    """
    with contextlib.suppress(RuntimeError):
        importlib.import_module("torchvision")
        return
    for operation in ("nms", "qnms"):
        _OPERATIONS.define(
            f"{operation}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    importlib.import_module("torchvision")
