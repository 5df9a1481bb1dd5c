"""Where each tensor of another framework's ResNet goes: one table a layout.

Our module paths are torchvision's names with `_` for the dots inside a stage and a block.
"""

import re
from collections.abc import Callable, Collection
from typing import NamedTuple

from vtl.errors import UserError
from vtl.models import HEAD
from vtl.models.resnet import DEPTHS
from vtl.weights.layouts import names

TORCH_LEAVES = {
    ("conv", "weight"): ("params", "kernel"),
    ("norm", "weight"): ("params", "scale"),
    ("norm", "bias"): ("params", "bias"),
    ("norm", "running_mean"): ("batch_stats", "mean"),
    ("norm", "running_var"): ("batch_stats", "var"),
    ("head", "weight"): ("params", "kernel"),
    ("head", "bias"): ("params", "bias"),
}
_KERAS_LEAVES = {
    ("conv", "kernel"): ("params", "kernel"),
    ("conv", "bias"): ("params", "bias"),
    ("norm", "gamma"): ("params", "scale"),
    ("norm", "beta"): ("params", "bias"),
    ("norm", "moving_mean"): ("batch_stats", "mean"),
    ("norm", "moving_variance"): ("batch_stats", "var"),
    ("head", "kernel"): ("params", "kernel"),
    ("head", "bias"): ("params", "bias"),
}
_KERAS_3_LEAVES = {
    ("conv", "0"): ("params", "kernel"),
    ("conv", "1"): ("params", "bias"),
    ("norm", "0"): ("params", "scale"),
    ("norm", "1"): ("params", "bias"),
    ("norm", "2"): ("batch_stats", "mean"),
    ("norm", "3"): ("batch_stats", "var"),
    ("head", "0"): ("params", "kernel"),
    ("head", "1"): ("params", "bias"),
}
_TORCH_HEADS = (f"{HEAD}.", "classifier.1.")
_TORCH_MODULE = r"conv1|bn1|layer[1-4]\.\d+\.(?:conv[123]|bn[123]|downsample\.[01])"
_HUGGING_FACE_MODULE = (
    r"(?:embedder\.embedder|encoder\.stages\.[0-3]\.layers\.\d+\.(?:shortcut|layer\.[0-2]))"
    r"\.(?:convolution|normalization)"
)
BODY = re.compile(
    rf"(?:^|\.)((?:{_TORCH_MODULE}|{_HUGGING_FACE_MODULE})"
    r"\.(?:weight|bias|running_mean|running_var))$"
)
"""The end of a tensor's name from where it is a ResNet's, the head's aside."""

_KERAS_HEAD = re.compile(r"predictions|probs|fc1000|dense(_\d+)?")
_KERAS_DEPTHS = (50, 101, 152)
_KIND = {"conv": "conv", "downsample_0": "conv", "bn": "norm", "downsample_1": "norm", HEAD: "head"}


class Layout(NamedTuple):
    """How a file names its tensors: a module's name, a separator, and a leaf's name."""

    separator: str
    module_of: Callable[[str], str | None]
    """Their module's name -> ours, or None if we have no such module."""
    leaves: dict[tuple[str, str], tuple[str, str]]
    """(kind of module, their leaf) -> (collection, our leaf)."""


def layout_of(format: str, keys: Collection[str], path: object) -> Layout:
    """The layout of a file at `path` of this format, with tensors of these names.

    Raises:
        UserError: it holds several networks, or one whose layers have no names in an unknown order.
    """
    if format == "keras_legacy_h5":
        return Layout("/", _keras_module, _KERAS_LEAVES)
    if format == "keras3_weights_h5":
        return Layout("/", _keras_3_module(keys, path), _KERAS_3_LEAVES)
    wrapper = names.wrapper_of(keys, BODY)
    if wrapper is None:
        names.refuse_several(keys, BODY, path)
        wrapper = ""
    is_hugging_face = any(names.plain_name(key).startswith(f"{wrapper}embedder.") for key in keys)
    module_of = _hugging_face_module if is_hugging_face else _torch_module
    return Layout(".", lambda name: module_of(_unwrapped(name, wrapper)), TORCH_LEAVES)


def _unwrapped(name: str, wrapper: str) -> str:
    """A module's name inside of the wrapper; a head may stand outside, nothing else may."""
    name = names.plain_name(name)
    if name.startswith(wrapper):
        return name.removeprefix(wrapper)
    return name if f"{name}." in _TORCH_HEADS else ""


def kind_of(module: str) -> str:
    """The kind of our module at a path: `conv`, `norm` or `head`."""
    return _KIND[re.sub(r"^(conv|bn)\d$", r"\1", module.rpartition("/")[2])]


def _torch_module(name: str) -> str | None:
    """`layer1.0.downsample.0` -> `layer1_0/downsample_0`."""
    if not re.fullmatch(rf"{_TORCH_MODULE}|{HEAD}", name):
        return None
    stage, _, rest = name.partition(".")
    block, _, part = rest.partition(".")
    return f"{stage}_{block}/{part.replace('.', '_')}" if rest else name


def _hugging_face_module(name: str) -> str | None:
    """`encoder.stages.0.layers.0.shortcut.normalization` -> `layer1_0/downsample_1`."""
    if name == "classifier.1":
        return HEAD
    match = re.fullmatch(
        r"(?:embedder\.embedder|encoder\.stages\.([0-3])\.layers\.(\d+)\.(shortcut|layer\.[0-2]))"
        r"\.(convolution|normalization)",
        name,
    )
    if not match:
        return None
    stage, block, part, kind = match.groups()
    is_norm = kind == "normalization"
    if stage is None:
        return "bn1" if is_norm else "conv1"
    if part == "shortcut":
        module = f"downsample_{int(is_norm)}"
    else:
        module = f"{'bn' if is_norm else 'conv'}{int(part[-1]) + 1}"
    return f"layer{int(stage) + 1}_{block}/{module}"


def _keras_module(name: str) -> str | None:
    """`conv2_block1_0_bn` or, from 2017, `bn2a_branch1` -> `layer1_0/downsample_1`."""
    if _KERAS_HEAD.fullmatch(name):
        return HEAD
    if name in ("conv1_conv", "conv1"):
        return "conv1"
    if name in ("conv1_bn", "bn_conv1"):
        return "bn1"
    if match := re.fullmatch(r"conv([2-5])_block(\d\d?)_([0-3])_(conv|bn)", name):
        stage, block, index, kind = match.groups()
        block = str(int(block) - 1)
    elif match := re.fullmatch(r"(res|bn)([2-5])([a-f])_branch(1|2[abc])", name):
        kind, stage, letter, branch = match.groups()
        block = str(ord(letter) - ord("a"))
        index = str("0abc".index(branch[1:] or "0"))
    else:
        return None
    if index == "0":
        part = "downsample_0" if kind in ("conv", "res") else "downsample_1"
    else:
        part = f"{'bn' if kind == 'bn' else 'conv'}{index}"
    return f"layer{int(stage) - 1}_{block}/{part}"


def _keras_3_order(depth: int) -> list[str]:
    """A model's convolutions in `model.layers`' order: a shortcut's before its block's last."""
    order = ["conv1"]
    for stage, blocks in enumerate(DEPTHS[depth].blocks, start=1):
        for block in range(blocks):
            parts = ["conv1", "conv2", "conv3"]
            if block == 0:
                parts.insert(2, "downsample_0")
            order += [f"layer{stage}_{block}/{part}" for part in parts]
    return order


def norm_after(conv: str) -> str:
    """The BatchNorm that follows a convolution: `layer1_0/conv1` -> `layer1_0/bn1`."""
    return re.sub(r"conv(\d)$", r"bn\1", conv).replace("downsample_0", "downsample_1")


def _keras_3_module(keys: Collection[str], path: object) -> Callable[[str], str | None]:
    """A function from a layer's name to our module, by its number in `keys` or else by the name."""
    convs = {key for key in keys if re.search(r"(^|/)layers/conv2d(_\d+)?/vars/0$", key)}
    orders = {len(order): order for order in map(_keras_3_order, _KERAS_DEPTHS)}
    if convs and len(convs) not in orders:
        raise UserError(
            f"{path}: {len(convs)} unnamed convolutions make up none of Keras' ResNets "
            f"{', '.join(map(str, _KERAS_DEPTHS))}"
        )
    numbered = {}
    for index, conv in enumerate(orders.get(len(convs), [])):
        suffix = f"_{index}" if index else ""
        numbered[f"conv2d{suffix}"] = conv
        numbered[f"batch_normalization{suffix}"] = norm_after(conv)

    def module_of(name: str) -> str | None:
        parent, _, layer = name.removesuffix("/vars").rpartition("/")
        if parent and layer in numbered:
            return numbered[layer]
        return _keras_module(layer)

    return module_of
