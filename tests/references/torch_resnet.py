"""A plain PyTorch ResNet v1.5 under torchvision's module names: what ours is compared with.

Written from table 1 of He et al. 2016, "Deep Residual Learning for Image Recognition". v1.5 has
the stride of a bottleneck in its 3x3 convolution.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 with four times the channels at the end."""

    def __init__(self, inputs: int, channels: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        if bottleneck:
            outputs = 4 * channels
            convs = [(channels, 1, 1), (channels, 3, stride), (outputs, 1, 1)]
        else:
            outputs = channels
            convs = [(channels, 3, stride), (outputs, 3, 1)]
        self.num_convs = len(convs)
        width = inputs
        for i, (features, kernel, step) in enumerate(convs, start=1):
            conv = nn.Conv2d(width, features, kernel, step, padding=kernel // 2, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(features))
            width = features
        self.downsample = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, C, H, W] -> [B, outputs, H / stride, W / stride]."""
        y = x
        for i in range(1, self.num_convs + 1):
            y = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(y))
            if i < self.num_convs:
                y = torch.relu(y)
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(nn.Module):
    """Images [B, 3, H, W] -> logits [B, num_classes]."""

    def __init__(self, depth: int, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        channels, bottleneck = round(64 * width), depth >= 50
        self.conv1 = nn.Conv2d(3, channels, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs = channels
        for stage, count in enumerate(BLOCKS[depth], start=1):
            blocks = []
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(ResidualBlock(inputs, channels, stride, bottleneck))
                inputs = channels * (4 if bottleneck else 1)
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            channels *= 2
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images [B, 3, H, W] -> logits [B, num_classes]."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(images))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def load_arrays(model: TorchResNet, tensors: Mapping[str, np.ndarray]) -> TorchResNet:
    """Fill `model` with a state_dict of arrays; BatchNorm's batch counters may be missing."""
    state = {name: torch.tensor(array) for name, array in tensors.items()}
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    return model


def normalised(images: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> [B, 3, H, W], as torchvision's ToTensor and Normalize do."""
    x = torch.tensor(images).permute(0, 3, 1, 2).to(dtype) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((x - mean.to(dtype).view(3, 1, 1)) / std.to(dtype).view(3, 1, 1)).contiguous()


def outputs(model: TorchResNet, images: torch.Tensor) -> dict[str, np.ndarray]:
    """Every block's output by forward hooks, under our names and as [B, H, W, C]."""
    by_name: dict[str, np.ndarray] = {}
    names = {"maxpool": "stem", "avgpool": "features", "fc": "logits"}
    hooks = []
    for path, module in model.named_modules():
        if isinstance(module, ResidualBlock) or path in names:
            name = names.get(path, path.replace(".", "_"))

            def record(
                module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor, name: str = name
            ) -> None:
                if output.ndim == 4:
                    output = output.permute(0, 2, 3, 1)
                array = output.detach().numpy()
                by_name[name] = array[:, 0, 0] if name == "features" else array

            hooks.append(module.register_forward_hook(record))
    model.eval()
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return by_name


def gradients(
    model: TorchResNet, images: torch.Tensor, labels: np.ndarray, *, training: bool
) -> dict[str, np.ndarray]:
    """One step's state_dict, with the gradient of the mean sigmoid BCE for each parameter."""
    model.train(training)
    logits = model(images)
    target = torch.tensor(labels).to(logits.dtype)
    torch.nn.functional.binary_cross_entropy_with_logits(logits, target).backward()
    by_name = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return by_name | {name: b.numpy() for name, b in model.named_buffers() if "running" in name}


def near_batch_statistics(
    model: TorchResNet, images: torch.Tensor, uniform: Callable[..., Any]
) -> dict[str, np.ndarray]:
    """Running statistics close to the batch's own, as those of a trained network are."""
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for norm in norms.values():
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(images)
    tensors, state = {}, {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for name in norms:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        tensors[f"{name}.running_mean"] = mean + uniform(-0.2, 0.2, mean.shape) * np.sqrt(var)
        tensors[f"{name}.running_var"] = var * uniform(0.8, 1.25, var.shape)
    return tensors
