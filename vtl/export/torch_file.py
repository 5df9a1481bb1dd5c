"""Files of torchvision's and timm's names: what is folded into them, how PyTorch runs them."""

import dataclasses
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from vtl.export import bodies, torch_head
from vtl.export.graph import package
from vtl.export.reference import BATCH, Outputs, Predict, joined
from vtl.models import HEAD
from vtl.preprocessing import Preprocessing
from vtl.weights import convert, metadata
from vtl.weights.formats import safetensors
from vtl.weights.sources import Weights, class_names

ByChannel = tuple[float, float, float]

FACTS_KEY = "vtl_export"
"""In the metadata of a .safetensors file: where it was tried, and the rest, as JSON."""


def tensors(weights: Weights) -> dict[str, np.ndarray]:
    """The state_dict for RGB pixels, its logits calibrated.

    Slopes and intercepts are in the last layer, which every head of `models.head` lets through;
    BGR is in the first convolution, and what the family's body says elsewhere.
    """
    body = bodies.of(weights)
    changed = body.torch_tensors(weights)
    if weights.preprocessing.channels == "bgr":
        changed[body.FIRST_KERNEL] = changed[body.FIRST_KERNEL][:, :, ::-1]
    if weights.decisions:
        slopes, intercepts = (
            np.array(numbers)
            for numbers in (weights.decisions.slopes, weights.decisions.intercepts)
        )
        kernel, bias = f"params/{HEAD}/kernel", f"params/{HEAD}/bias"
        changed[kernel] = (weights.tensors[kernel] * slopes).astype(np.float32)
        changed[bias] = (weights.tensors[bias] * slopes + intercepts).astype(np.float32)
    paths = {tuple(name.split("/")): tensor for name, tensor in changed.items()}
    return convert.from_variables(traverse_util.unflatten_dict(paths), weights.architecture)


def mean_and_std(preprocessing: Preprocessing) -> tuple[ByChannel, ByChannel]:
    """As torchvision's Normalize wants them: of RGB pixels from 0 to 1."""

    def in_rgb(values: ByChannel) -> ByChannel:
        first, second, third = (x / (255 * preprocessing.scale) for x in values)
        is_bgr = preprocessing.channels == "bgr"
        return (third, second, first) if is_bgr else (first, second, third)

    return in_rgb(preprocessing.mean), in_rgb(preprocessing.std)


def content(weights: Weights, suffix: str, facts: dict[str, Any]) -> bytes:
    """The bytes of a .pth or a .safetensors file; the latter has room for facts.

    Raises:
        UserError: a .pth needs PyTorch, which is not installed.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"network{suffix}"
        if suffix == ".pth":
            torch = package("torch")
            state = {name: torch.tensor(array) for name, array in tensors(weights).items()}
            torch.save(state, path)
        else:
            safetensors.write(path, tensors(weights), _metadata(weights, facts))
        return path.read_bytes()


def _metadata(weights: Weights, facts: dict[str, Any]) -> dict[str, str]:
    """With it `vtl` reads the file back as what it computes now."""
    mean, std = mean_and_std(weights.preprocessing)
    pixels = dataclasses.replace(
        weights.preprocessing, channels="rgb", scale=1 / 255, mean=mean, std=std
    )
    decisions = weights.decisions
    if decisions:
        num_classes = len(decisions.slopes)
        decisions = dataclasses.replace(
            decisions, slopes=(1.0,) * num_classes, intercepts=(0.0,) * num_classes
        )
    own = bodies.of(weights).torch_architecture(weights)
    meta = metadata.NetworkMeta(own, pixels, weights.classes, weights.multi_label, decisions)
    return {
        "format": "pt",
        metadata.NETWORK_KEY: metadata.network_text(meta),
        FACTS_KEY: json.dumps(facts),
    }


def timm_config(weights: Weights) -> dict[str, Any]:
    """What timm's `local-dir:` wants as config.json beside model.safetensors."""
    pixels, own = weights.preprocessing, weights.architecture
    of_family = bodies.of(weights).timm_config(weights)
    mean, std = mean_and_std(pixels)
    side = pixels.crop_size
    how = {
        "input_size": [3, side, side],
        "fixed_input_size": False,
        "interpolation": pixels.interpolation,
        "crop_pct": side / pixels.stored_size(crops=False),
        "crop_mode": "center" if pixels.resize == "resize_crop" else "squash",
        "mean": list(mean),
        "std": list(std),
        "num_classes": own.num_classes,
        "classifier": HEAD,
        **{key: of_family.pop(key) for key in ("pool_size", "first_conv") if key in of_family},
    }
    return {
        "num_classes": own.num_classes,
        "num_features": own.num_channels,
        "label_names": list(class_names(weights)),
        "pretrained_cfg": how,
        **of_family,
    }


def runtime() -> str:
    """PyTorch with its version.

    Raises:
        UserError: it is not installed.
    """
    return f"torch {package('torch').__version__}"


def predictor(data: bytes, suffix: str, weights: Weights) -> Predict:
    """What PyTorch computes with the file's tensors; its logits are calibrated ones.

    Raises:
        UserError: PyTorch is not installed.
    """
    torch = package("torch")
    if suffix == ".pth":
        state = torch.load(io.BytesIO(data), weights_only=True)
    else:
        state = package("safetensors.torch").load(data)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in mean_and_std(weights.preprocessing))
    head, maps_of = torch_head.function(weights.architecture), bodies.of(weights).torch_maps
    activation = torch.sigmoid if weights.multi_label else lambda x: torch.softmax(x, 1)

    def dense(x: Any) -> Any:
        return torch.nn.functional.linear(x, state[f"{HEAD}.weight"], state[f"{HEAD}.bias"])

    def predict(images: np.ndarray) -> Outputs:
        parts = []
        for start in range(0, len(images), BATCH):
            pixels = torch.tensor(images[start : start + BATCH]).permute(0, 3, 1, 2) / 255
            with torch.no_grad():
                logits = head(maps_of(torch, state, (pixels - mean) / std, weights), dense)
                parts.append(Outputs(activation(logits).numpy(), logits.numpy()))
        return joined(parts)

    return predict
