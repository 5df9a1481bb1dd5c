"""From other frameworks' tensors to our variables, and back to torchvision's names.

One table a layout says where each of its tensors goes, and one function transposes. Loading is
total: every tensor is used once or is named in `_IGNORED`, and everything else that does not fit is
an error that lists the keys.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable

import numpy as np
from flax import traverse_util

from vtl.errors import UserError
from vtl.models.resnet import DEPTHS, EPSILON
from vtl.weights.formats import WeightsFile

Tensors = dict[str, np.ndarray]
"""Our flat names, such as `params/layer1_0/conv1/kernel` or `batch_stats/bn1/mean` -> float32."""

HEAD = "params/fc/"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The arguments of `models.resnet.ResNet` that a file's tensors imply."""

    depth: int
    width: float
    variant: str
    epsilon: float
    num_classes: int | None
    """None where the file has no head."""


_TORCH_LEAVES = {
    ("conv", "weight"): ("params", "kernel"),
    ("norm", "weight"): ("params", "scale"),
    ("norm", "bias"): ("params", "bias"),
    ("norm", "running_mean"): ("batch_stats", "mean"),
    ("norm", "running_var"): ("batch_stats", "var"),
    ("fc", "weight"): ("params", "kernel"),
    ("fc", "bias"): ("params", "bias"),
}
_KERAS_LEAVES = {
    ("conv", "kernel"): ("params", "kernel"),
    ("conv", "bias"): ("params", "bias"),
    ("norm", "gamma"): ("params", "scale"),
    ("norm", "beta"): ("params", "bias"),
    ("norm", "moving_mean"): ("batch_stats", "mean"),
    ("norm", "moving_variance"): ("batch_stats", "var"),
    ("fc", "kernel"): ("params", "kernel"),
    ("fc", "bias"): ("params", "bias"),
}
_KERAS_3_LEAVES = {
    ("conv", "0"): ("params", "kernel"),
    ("conv", "1"): ("params", "bias"),
    ("norm", "0"): ("params", "scale"),
    ("norm", "1"): ("params", "bias"),
    ("norm", "2"): ("batch_stats", "mean"),
    ("norm", "3"): ("batch_stats", "var"),
    ("fc", "0"): ("params", "kernel"),
    ("fc", "1"): ("params", "bias"),
}
_IGNORED = re.compile(r".*\.num_batches_tracked|optimizer/vars/\d+")
_KERAS_HEAD = re.compile(r"predictions|probs|fc1000|dense(_\d+)?")
_KERAS_DEPTHS = (50, 101, 152)
_KIND = {"conv": "conv", "downsample_0": "conv", "bn": "norm", "downsample_1": "norm", "fc": "fc"}


def _kind(module: str) -> str:
    return _KIND[re.sub(r"^(conv|bn)\d$", r"\1", module.rpartition("/")[2])]


def _torch_module(name: str) -> str | None:
    """`layer1.0.downsample.0` -> `layer1_0/downsample_0`."""
    stem = re.fullmatch(r"conv1|bn1|fc", name)
    block = re.fullmatch(r"(layer[1-4])\.(\d+)\.(conv[123]|bn[123]|downsample\.[01])", name)
    if block:
        return f"{block[1]}_{block[2]}/{block[3].replace('.', '_')}"
    return name if stem else None


def _keras_module(name: str) -> str | None:
    """`conv2_block1_0_bn` or, from 2017, `bn2a_branch1` -> `layer1_0/downsample_1`."""
    if _KERAS_HEAD.fullmatch(name):
        return "fc"
    if name in ("conv1_conv", "conv1"):
        return "conv1"
    if name in ("conv1_bn", "bn_conv1"):
        return "bn1"
    if match := re.fullmatch(r"conv([2-5])_block(\d+)_([0-3])_(conv|bn)", name):
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
    """A model's convolutions as `model.layers` has them: a shortcut's comes before the last."""
    order = ["conv1"]
    for stage, blocks in enumerate(DEPTHS[depth].blocks, start=1):
        for block in range(blocks):
            parts = ["conv1", "conv2", "conv3"]
            if block == 0:
                parts.insert(2, "downsample_0")
            order += [f"layer{stage}_{block}/{part}" for part in parts]
    return order


def _norm_after(conv: str) -> str:
    """`layer1_0/downsample_0` -> `layer1_0/downsample_1`."""
    return re.sub(r"conv(\d)$", r"bn\1", conv).replace("downsample_0", "downsample_1")


def _keras_3_module(keys: Iterable[str], path: object) -> Callable[[str], str | None]:
    """What finds the module of a layer of these `keys`, by its name or else by its number."""
    convs = {key for key in keys if re.search(r"(^|/)layers/conv2d(_\d+)?/vars/0$", key)}
    orders = {len(order): order for order in map(_keras_3_order, _KERAS_DEPTHS)}
    if convs and len(convs) not in orders:
        raise UserError(
            f"{path}: {len(convs)} convolutions without names, no ResNet of {list(_KERAS_DEPTHS)}"
        )
    numbered = {}
    for index, conv in enumerate(orders.get(len(convs), [])):
        suffix = f"_{index}" if index else ""
        numbered[f"conv2d{suffix}"] = conv
        numbered[f"batch_normalization{suffix}"] = _norm_after(conv)

    def module_of(name: str) -> str | None:
        parent, _, layer = name.removesuffix("/vars").rpartition("/")
        if parent and layer in numbered:
            return numbered[layer]
        return _keras_module(layer)

    return module_of


def _rename(
    tensors: dict[str, np.ndarray],
    separator: str,
    module_of: Callable[[str], str | None],
    leaves: dict,
    path: object,
) -> Tensors:
    renamed: Tensors = {}
    unknown = []
    for key, tensor in tensors.items():
        if _IGNORED.fullmatch(key):
            continue
        name, _, leaf = key.rpartition(separator)
        module = module_of(name)
        place = leaves.get((_kind(module), leaf)) if module else None
        if place is None:
            unknown.append(key)
            continue
        ours = f"{place[0]}/{module}/{place[1]}"
        if ours in renamed:
            raise UserError(f"{path}: two tensors for {ours}, the second is {key}")
        renamed[ours] = np.asarray(tensor, np.float32)
    if unknown:
        raise UserError(f"{path}: not a ResNet's tensors: {_some(unknown)}")
    return renamed


def _some(keys: Iterable[str]) -> str:
    keys = sorted(keys)
    more = f" and {len(keys) - 6} more" if len(keys) > 6 else ""
    return ", ".join(keys[:6]) + more


def _fold_conv_biases(tensors: Tensors) -> Tensors:
    """Keras v1 adds a bias before each BatchNorm; taken off the running mean it does the same."""
    folded = {}
    for key, tensor in tensors.items():
        module, _, leaf = key.rpartition("/")
        if leaf == "bias" and _kind(module) == "conv":
            continue
        if leaf == "mean":
            conv = module.replace("batch_stats", "params").replace("downsample_1", "downsample_0")
            bias = tensors.get(re.sub(r"bn(\d)$", r"conv\1", conv) + "/bias")
            tensor = tensor if bias is None else tensor - bias
        folded[key] = tensor
    return folded


def canonical(file: WeightsFile) -> tuple[Tensors, Architecture]:
    """A file's tensors under our names and in our layout, and the architecture they imply.

    Raises:
        UserError: unknown tensors, or tensors that make up no ResNet of `models.resnet.DEPTHS`.
    """
    if file.format in ("keras_legacy_h5", "keras3_weights_h5"):
        if file.format == "keras_legacy_h5":
            tensors = _rename(file.tensors, "/", _keras_module, _KERAS_LEAVES, file.path)
        else:
            module_of = _keras_3_module(file.tensors, file.path)
            tensors = _rename(file.tensors, "/", module_of, _KERAS_3_LEAVES, file.path)
        is_2017 = any(re.search(r"(^|/)res2a", key) for key in file.tensors)
        variant, epsilon = "v1", 1e-3 if is_2017 else EPSILON["v1"]
        return _fold_conv_biases(tensors), _architecture(tensors, variant, epsilon, file)
    tensors = _rename(file.tensors, ".", _torch_module, _TORCH_LEAVES, file.path)
    tensors = {key: _from_torch(tensor) for key, tensor in tensors.items()}
    return tensors, _architecture(tensors, "v1.5", EPSILON["v1.5"], file)


def _from_torch(tensor: np.ndarray) -> np.ndarray:
    """OIHW -> HWIO, OI -> IO."""
    if tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    return tensor.T


def _to_torch(tensor: np.ndarray) -> np.ndarray:
    """HWIO -> OIHW, IO -> OI."""
    if tensor.ndim == 4:
        return tensor.transpose(3, 2, 0, 1)
    return tensor.T


def _architecture(
    tensors: Tensors, variant: str, epsilon: float, file: WeightsFile
) -> Architecture:
    stages = [re.match(r"params/layer(\d)_(\d+)/conv", key) for key in tensors]
    found = [len({m[2] for m in stages if m and m[1] == str(s)}) for s in (1, 2, 3, 4)]
    bottleneck = "params/layer1_0/conv3/kernel" in tensors
    depths = [
        d for d, r in DEPTHS.items() if r.bottleneck == bottleneck and list(r.blocks) == found
    ]
    if not depths:
        raise UserError(f"{file.path}: stages of {found} blocks are no ResNet of {list(DEPTHS)}")
    if "params/conv1/kernel" not in tensors:
        raise UserError(f"{file.path}: conv1 is missing")
    head = tensors.get(f"{HEAD}kernel")
    return Architecture(
        depth=depths[0],
        width=tensors["params/conv1/kernel"].shape[-1] / 64,
        variant=variant,
        epsilon=epsilon,
        num_classes=None if head is None else head.shape[-1],
    )


def to_variables(tensors: Tensors, shapes: dict, *, head: dict | None = None) -> dict:
    """Fill the tree `shapes` (of anything with a shape) with `tensors`, each used once.

    With `head` (params of `fc`) it stands in for the file's own; without, the file must have one.

    Raises:
        UserError: a missing, superfluous or misshapen tensor, by its name.
    """
    if head is not None:
        tensors = {key: value for key, value in tensors.items() if not key.startswith(HEAD)}
        tensors |= {f"{HEAD}{name}": np.asarray(value) for name, value in head.items()}
    wanted = {"/".join(path): leaf for path, leaf in traverse_util.flatten_dict(shapes).items()}
    if missing := wanted.keys() - tensors.keys():
        raise UserError(f"the weights lack {_some(missing)}")
    if superfluous := tensors.keys() - wanted.keys():
        raise UserError(f"the network has no place for {_some(superfluous)}")
    wrong = [
        f"{key} {tensors[key].shape} instead of {leaf.shape}"
        for key, leaf in wanted.items()
        if tensors[key].shape != leaf.shape
    ]
    if wrong:
        raise UserError(f"the weights do not fit the network: {_some(wrong)}")
    return traverse_util.unflatten_dict({tuple(k.split("/")): v for k, v in tensors.items()})


def from_variables(variables: dict) -> dict[str, np.ndarray]:
    """Our variables under torchvision's names and in its layout."""
    leaves = {(kind, *place): leaf for (kind, leaf), place in _TORCH_LEAVES.items()}
    tensors = {}
    for path, leaf in traverse_util.flatten_dict(variables).items():
        collection, *modules, name = path
        their_leaf = leaves[_kind(modules[-1]), collection, name]
        module = ".".join(modules).replace("downsample_", "downsample.")
        module = re.sub(r"^(layer\d)_", r"\1.", module)
        tensors[f"{module}.{their_leaf}"] = np.ascontiguousarray(_to_torch(np.asarray(leaf)))
    return tensors
