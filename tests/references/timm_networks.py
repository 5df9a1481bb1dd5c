"""timm's networks, which ours are compared with, and their outputs under our names."""

import contextlib
import re
import sys
from typing import Any

import numpy as np
import torch
from torch import nn

_OPERATIONS = torch.library.Library("torchvision", "FRAGMENT")


def _import_torchvision() -> None:
    """Import it whatever PyTorch it was built for.

    PyPI's wheels are built for CUDA. Beside a PyTorch for CPUs they can't load their operations,
    which no network here needs, and then fail to describe two of them.
    """
    with contextlib.suppress(RuntimeError):
        import torchvision  # noqa: F401

        return
    for operation in ("nms", "qnms"):
        _OPERATIONS.define(
            f"{operation}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


_import_torchvision()

from timm.models import efficientnet  # noqa: E402


def efficientnet_lite(size: int, num_classes: int, width: float = 1.0) -> nn.Module:
    """timm's tf_efficientnet_lite with `width` times its features; the multipliers are timm's."""
    published = efficientnet._gen_efficientnet_lite
    widths, depths = (1.0, 1.0, 1.1, 1.2, 1.4), (1.0, 1.1, 1.2, 1.4, 1.8)
    return published(
        f"tf_efficientnet_lite{size}",
        channel_multiplier=widths[size] * width,
        depth_multiplier=depths[size],
        num_classes=num_classes,
        bn_eps=efficientnet.BN_EPS_TF_DEFAULT,
        pad_type="same",
    ).eval()


_NAMES = {"bn1": "stem", "bn2": "conv_head", "global_pool": "features", "classifier": "logits"}


def outputs(model: nn.Module, images: torch.Tensor) -> dict[str, np.ndarray]:
    """Every block's output by forward hooks, as [B, H, W, C], of normalised images [B, 3, H, W]."""
    by_name: dict[str, np.ndarray] = {}
    hooks = []
    for path, module in model.named_modules():
        if re.fullmatch(r"blocks\.\d\.\d", path) or path in _NAMES:
            name = _NAMES.get(path, path.replace(".", "_"))

            def record(_: nn.Module, inputs: Any, output: torch.Tensor, name: str = name) -> None:
                if output.ndim == 4:
                    output = output.permute(0, 2, 3, 1)
                # A copy: timm's ReLU6 works in place.
                by_name[name] = np.array(output.detach().numpy())

            hooks.append(module.register_forward_hook(record))
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return by_name
