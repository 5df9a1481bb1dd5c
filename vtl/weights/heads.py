"""A linear head in a file of its own: what a probe leaves and fine-tuning may start from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from vtl.errors import UserError
from vtl.models import HEAD
from vtl.preprocessing import Preprocessing
from vtl.untrusted import reading
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
    """Write kernel [D, C] and bias [C] by torchvision's names, with the meta of their features."""
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
        UserError: no head there, or one for other classes, of other weights or another layer.
    """
    path = Path(directory) / FILE_NAME
    if not path.exists():
        raise UserError(f"head_from={directory}: no finished probe there ({FILE_NAME} is missing)")
    with reading(path, "train the probe again"):
        file = formats.read(path)
        meta = json.loads(file.metadata.get("vtl_head", "{}"))
        if tuple(meta.get("classes", ())) != classes:
            raise UserError(f"head_from={directory}: its head is for other classes than the data's")
        features = meta["features"]
        sha256 = features.get("weights", {}).get("sha256", weights_sha256)
        if sha256 != weights_sha256:
            raise UserError(
                f"head_from={directory}: its features came from other weights "
                f"(sha256 {sha256[:8]}… instead of {weights_sha256[:8]}…)"
            )
        kernel, bias = file.tensors[f"{HEAD}.weight"].T, file.tensors[f"{HEAD}.bias"]
        layer, pool = features.get("layer", "layer4"), features.get("pool", 1)
        if (layer, pool) != ("layer4", 1) or len(kernel) != num_features:
            raise UserError(
                f"head_from={directory}: its features are {len(kernel)} numbers of {layer} with "
                f"pool={pool}, the network's head takes the {num_features} of layer4 with pool=1"
            )
        before = features.get("weights", {}).get("preprocessing")
        if before and Preprocessing.from_dict(before) != preprocessing:
            logging.warning(
                "head_from=%s: its features came from photos prepared in another way (%s)",
                directory,
                before,
            )
        return {"kernel": kernel, "bias": bias}
