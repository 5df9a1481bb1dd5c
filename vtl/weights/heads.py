"""A linear head in its own file: a probe writes it, and fine-tuning may start from it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from vtl.errors import UserError
from vtl.models import HEAD
from vtl.preprocessing import Preprocessing
from vtl.weights import formats
from vtl.weights.formats import safetensors

FILE_NAME = "head.safetensors"


def save(
    directory: Path,
    kernel: np.ndarray,
    bias: np.ndarray,
    *,
    classes: tuple[str, ...],
    features: dict[str, Any],
) -> None:
    """Write kernel [D, C] and bias [C] under torchvision's names, with their features' meta."""
    meta = {"classes": list(classes), "features": features}
    safetensors.write(
        directory / FILE_NAME,
        {f"{HEAD}.weight": np.ascontiguousarray(kernel.T), f"{HEAD}.bias": bias},
        {"format": "pt", "vtl_head": json.dumps(meta)},
    )


def load(
    directory: str | Path,
    *,
    classes: tuple[str, ...],
    weights_sha256: str,
    num_features: int,
    preprocessing: Preprocessing,
) -> dict[str, np.ndarray]:
    """The params {kernel [D, C], bias [C]} of a probe's head, for these classes and this network.

    Raises:
        UserError: there is no head, or it is for other classes, weights or another layer.
    """
    path = Path(directory) / FILE_NAME
    if not path.exists():
        raise UserError(f"head_from={directory}: no finished probe there ({FILE_NAME} is missing)")
    file = formats.read(path)
    meta = json.loads(file.metadata.get("vtl_head", "{}"))
    if tuple(meta.get("classes", ())) != classes:
        raise UserError(f"head_from={directory}: its head is for other classes than the data's")
    features = meta["features"]
    sha256 = features.get("weights", {}).get("sha256", weights_sha256)
    if sha256 != weights_sha256:
        raise UserError(
            f"head_from={directory}: its features came from other weights "
            f"(sha256 {sha256[:8]}…, not {weights_sha256[:8]}…)"
        )
    kernel, bias = file.tensors[f"{HEAD}.weight"].T, file.tensors[f"{HEAD}.bias"]
    layer, pool = features.get("layer", "layer4"), features.get("pool", 1)
    if (layer, pool) != ("layer4", 1) or len(kernel) != num_features:
        raise UserError(
            f"head_from={directory}: its features are {len(kernel)} numbers of {layer} with "
            f"pool={pool}\nthe network's head takes the {num_features} of layer4 with pool=1"
        )
    of_features = features.get("weights", {}).get("preprocessing")
    if of_features and Preprocessing.from_dict(of_features) != preprocessing:
        logging.warning(
            "head_from=%s: its features came from photos with other preprocessing (%s)",
            directory,
            of_features,
        )
    return {"kernel": kernel, "bias": bias}
