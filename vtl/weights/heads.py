"""A linear head in a file of its own: what a probe leaves and fine-tuning may start from."""

import json
from pathlib import Path

import numpy as np

from vtl.errors import UserError
from vtl.weights import formats

FILE_NAME = "head.safetensors"


def save(
    directory: Path,
    kernel: np.ndarray,
    bias: np.ndarray,
    *,
    classes: tuple[str, ...],
    weights_sha256: str | None,
) -> None:
    """Write kernel [D, C] and bias [C] as torchvision's `fc`, with the features they are for."""
    meta = {"classes": list(classes), "weights_sha256": weights_sha256}
    formats.write_safetensors(
        directory / FILE_NAME,
        {"fc.weight": np.ascontiguousarray(kernel.T), "fc.bias": bias},
        {"format": "pt", "vtl_head": json.dumps(meta)},
    )


def load(
    directory: str | Path, *, classes: tuple[str, ...], weights_sha256: str
) -> dict[str, np.ndarray]:
    """The params {kernel [D, C], bias [C]} of a probe's head for these classes and weights.

    Raises:
        UserError: no head there, or one for other classes or of other weights' features.
    """
    path = Path(directory) / FILE_NAME
    if not path.exists():
        raise UserError(f"head_from={directory}: no finished probe there ({FILE_NAME} is missing)")
    file = formats.read(path)
    meta = json.loads(file.metadata.get("vtl_head", "{}"))
    if tuple(meta.get("classes", ())) != classes:
        raise UserError(f"head_from={directory}: its head is for other classes than the data's")
    if meta["weights_sha256"] not in (None, weights_sha256):
        raise UserError(
            f"head_from={directory}: its features came from other weights "
            f"(sha256 {meta['weights_sha256'][:8]}… instead of {weights_sha256[:8]}…)"
        )
    return {"kernel": file.tensors["fc.weight"].T, "bias": file.tensors["fc.bias"]}
