"""Networks akin to ResNets that vtl does not have, by their tensors, so that errors name them."""

import re
from collections.abc import Mapping

import numpy as np

from vtl.errors import UserError
from vtl.untrusted import printable
from vtl.weights.layouts import names
from vtl.weights.layouts.resnet_names import BODY

_BY_NAME = {
    r"conv1\.0\.weight": "a deep stem ({}): ResNet-D/-C variants are not supported",
    r"layer1\.0\.se\..+": "squeeze and excitation ({}): SE- and ECA-ResNets are not supported",
    r"(stages\.0\.blocks\.0\.norm1\.|conv2_block1_preact_bn/).+": (
        "BatchNorm before its convolution ({}): ResNet v2 is not supported"
    ),
    r"onnx::.+": (
        "names of an ONNX export ({}), which folds BatchNorm into the convolutions; vtl needs the "
        "unfolded network, as model.state_dict() has it"
    ),
}


def refuse_others(tensors: Mapping[str, np.ndarray], path: object) -> None:
    """Raise UserError if the weights at `path` are of a known family that vtl does not support."""
    wrapper = names.wrapper_of(tensors, BODY)
    # Of a network that is no ResNet at all the wrapper is unknown.
    before = re.escape(wrapper) if wrapper is not None else r"(?:.*[./])?"
    bare = {
        names.plain_name(name).removeprefix(wrapper or ""): tensor
        for name, tensor in tensors.items()
    }
    for pattern, reason in _BY_NAME.items():
        for key in tensors:
            if match := re.fullmatch(f"{before}({pattern})", names.plain_name(key)):
                raise UserError(f"{path}: {reason.format(printable(match[1], 80))}")
    if "conv1.bias" in bare and "bn1.weight" not in bare:
        raise UserError(
            f"{path}: BatchNorm was folded into the convolutions (conv1.bias, but no bn1.weight); "
            "vtl needs the unfolded network"
        )
    stem, first, second = (
        bare[name].shape[:2] if name in bare and bare[name].ndim == 4 else None
        for name in ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight")
    )
    if first and second and second[1] < first[0]:
        raise UserError(
            f"{path}: grouped convolutions (layer1.0.conv2.weight takes {second[1]} of {first[0]} "
            "channels): ResNeXt is not supported"
        )
    if stem and first and first[0] > stem[0]:
        raise UserError(
            f"{path}: layer1.0.conv1.weight has {first[0]} channels where the stem has {stem[0]}: "
            "Wide ResNets are not supported"
        )
