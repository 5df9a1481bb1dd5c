"""timm's networks, which ours are compared with, and their outputs under our names."""

import re
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.references import torchvision

torchvision.load()

from timm.models import create_model, efficientnet  # noqa: E402


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


def vit(name: str, num_classes: int) -> nn.Module:
    """timm's Vision Transformer of that name."""
    return create_model(name, num_classes=num_classes).eval()


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
