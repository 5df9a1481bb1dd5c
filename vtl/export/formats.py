"""The formats that a network is exported to: each makes a file and says how it is run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtl.errors import UserError
from vtl.export import (
    bodies,
    onnx_file,
    onnx_graph,
    quantise,
    stablehlo,
    torch_file,
    torch_head,
    usage,
)
from vtl.export.reference import Predict
from vtl.untrusted import printable
from vtl.weights.sources import Weights

FORMATS = {
    ".onnx": "ONNX, for ONNX Runtime and OpenVINO",
    ".stablehlo": "StableHLO, for JAX without vtl",
    ".pth": "a state_dict for torchvision and timm",
    ".safetensors": "the same, without pickle",
}
"""The endings of what can be written, and what each is."""


class Made(NamedTuple):
    """An exported network that has yet to be run."""

    content: Callable[[dict[str, Any]], bytes]
    """The file's bytes, with the facts in its metadata where its format has a place for them."""
    predictor: Callable[[], Predict]
    """What its runtime computes with it; UserError if that isn't installed."""
    runtime: Callable[[], str]
    usage: dict[str, str]
    """Runtime -> lines of Python."""
    notes: tuple[str, ...] = ()
    config: dict[str, Any] | None = None
    """What timm's config.json holds."""
    model: Any = None
    """The ONNX model."""


def suffix_of(output: Path) -> str:
    """The format that the file's name asks for.

    Raises:
        UserError: there is no such format.
    """
    suffix = output.suffix.lower()
    if suffix not in FORMATS:
        listed = ", ".join(f"{ending} ({what})" for ending, what in FORMATS.items())
        raise UserError(
            f"-o {printable(output)}: its ending says what to write, and {suffix or 'none'} is "
            f"unknown\nChoose one of {listed}."
        )
    return suffix


def to_onnx(
    weights: Weights, output: Path, *, dtype: str = "float32", resizes: bool = False
) -> Made:
    """The network in ONNX, with float32 or float16 convolutions."""
    model = onnx_graph.make(weights, dtype=dtype, resizes=resizes)
    return of_onnx_model(model, weights, output, resizes=resizes)


def of_onnx_model(model: Any, weights: Weights, output: Path, *, resizes: bool = False) -> Made:
    """An ONNX model that is made already."""
    pixels = weights.preprocessing
    notes = [
        "Input `images` [N, H, W, 3] uint8, RGB; outputs `probabilities` [N, C] and `logits` "
        "[N, C] before calibration, float32."
    ]
    if resizes:
        notes.append(
            "Photos of any size go in; all photos of a batch have one size. The file resizes the "
            "width first. Pillow 13 begins with the height of some tall photos: more of their "
            "pixels are then off by one."
        )
    return Made(
        content=lambda facts: onnx_file.with_metadata(model, facts),
        predictor=lambda: onnx_file.predictor(onnx_file.with_metadata(model, {})),
        runtime=onnx_file.runtime,
        usage={
            "ONNX Runtime": usage.onnx(output, pixels, resizes=resizes),
            "OpenVINO": usage.openvino(output, pixels, resizes=resizes),
        },
        notes=tuple(notes),
        model=model,
    )


def to_int8(whole: Made, weights: Weights, output: Path, crops: np.ndarray) -> Made:
    """The float32 ONNX `whole` with convolutions in int8, calibrated on `crops`.

    Raises:
        UserError: next to nothing of the network is convolutions.
    """
    if not bodies.of(weights).IS_CONVOLUTIONAL:
        raise UserError(
            f"int8 is of convolutions, and a {weights.architecture.title} is nearly all products\n"
            "choose --dtype=float16"
        )
    return of_onnx_model(quantise.to_int8(whole.model, crops), weights, output)


def to_stablehlo(weights: Weights, output: Path) -> Made:
    """The network as a function of JAX."""
    content = stablehlo.make(weights)
    return Made(
        content=lambda facts: content,
        predictor=lambda: stablehlo.predictor(content),
        runtime=stablehlo.runtime,
        usage={"JAX": usage.stablehlo(output, weights.preprocessing)},
        notes=(
            f"For the platforms {' and '.join(stablehlo.PLATFORMS)}, and batches of any size.",
            f"{stablehlo.PROMISE}.",
        ),
    )


def to_torch(weights: Weights, output: Path) -> Made:
    """The network under torchvision's names, as .pth or .safetensors.

    Raises:
        UserError: the package of its family can't compute it.
    """
    body = bodies.of(weights)
    body.check_torch(weights)
    package = body.torch_usage(weights).package
    suffix, own = output.suffix.lower(), weights.architecture
    mean, std = torch_file.mean_and_std(weights.preprocessing)
    head = "" if own.has_plain_head else torch_head.text(own)
    notes = [
        f"{package} reads it by load_state_dict; timm also from a folder with this file as "
        "model.safetensors and the config.json beside it, as in "
        f"timm.create_model('local-dir:FOLDER', pretrained=True, num_classes={own.num_classes}).",
        f"Pixels are RGB from 0 to 1, mean {usage.rounded(mean)}, std {usage.rounded(std)}.",
    ]
    if weights.decisions:
        notes.append("Its logits are calibrated: slopes and intercepts are in the last layer.")
    if head:
        notes.append(
            f"{package} averages the last stage's maps, this network doesn't: compute its "
            "logits with the function head(maps, fc) in the lines below."
        )
    return Made(
        content=lambda facts: torch_file.content(weights, suffix, facts),
        predictor=lambda: torch_file.predictor(
            torch_file.content(weights, suffix, {}), suffix, weights
        ),
        runtime=torch_file.runtime,
        usage={"PyTorch": usage.torch(output, weights, body.torch_usage(weights), mean, std, head)},
        notes=tuple(notes),
        config=torch_file.timm_config(weights),
    )
