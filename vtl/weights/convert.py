"""From other frameworks' tensors to our variables, and back to torchvision's names.

One table per layout says where each tensor goes, and one function transposes. Loading is total:
every tensor is used once or is named in `layouts.IGNORED`. Anything else is an error that lists the
keys.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from flax import traverse_util

from vtl.errors import UserError
from vtl.models import HEAD
from vtl.models.head import PLAIN
from vtl.models.resnet import DEPTHS, EPSILON
from vtl.untrusted import printable
from vtl.weights import families, layouts
from vtl.weights.formats import WeightsFile

Tensors = dict[str, np.ndarray]
"""Our flat names, such as `params/layer1_0/conv1/kernel` or `batch_stats/bn1/mean` -> float32."""

_HEAD_PREFIX = f"params/{HEAD}/"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The arguments of `models.resnet.ResNet`: what a file's tensors imply, and its head's."""

    depth: int
    width: float
    variant: str
    epsilon: float
    num_classes: int | None
    """None if the file has no head."""
    pooling: str = "average"
    transform: str = "none"
    regions: int = 0

    @property
    def num_channels(self) -> int:
        """Of the last stage's output."""
        return 8 * round(64 * self.width) * (4 if DEPTHS[self.depth].bottleneck else 1)

    @property
    def has_plain_head(self) -> bool:
        """Whether the head is torchvision's: a dense layer on the mean."""
        return all(getattr(self, name) == value for name, value in PLAIN.items())


def _rename(file: WeightsFile) -> Tensors:
    layout = layouts.layout_of(file.format, file.tensors, file.path)
    renamed: Tensors = {}
    unknown = []
    for key, tensor in file.tensors.items():
        if layouts.IGNORED.fullmatch(key):
            continue
        name, _, leaf = key.rpartition(layout.separator)
        module = layout.module_of(name)
        kind = layouts.kind_of(module) if module else ""
        if (kind, leaf) not in layout.leaves:
            unknown.append(key)
            continue
        collection, our_leaf = layout.leaves[kind, leaf]
        dimensions = {"conv": 4, "head": 2}[kind] if our_leaf == "kernel" else 1
        if np.ndim(tensor) != dimensions:
            raise UserError(
                f"{file.path}: {printable(key, 80)} has shape {np.shape(tensor)}, expected "
                f"{dimensions} dimensions"
            )
        ours = f"{collection}/{module}/{our_leaf}"
        if ours in renamed:
            raise UserError(
                f"{file.path}: two tensors for {ours}, the second is {printable(key, 80)}"
            )
        with np.errstate(over="ignore"):  # what is beyond float32 is infinite, and refused as such
            renamed[ours] = np.asarray(tensor, np.float32)
    if unknown:
        raise UserError(f"{file.path}: not a ResNet's tensors: {some(unknown)}{_others(renamed)}")
    return renamed


def _others(renamed: Tensors) -> str:
    """What to do about a few tensors beside a network; "" if there is none."""
    if len(renamed) < layouts.NETWORK:
        return ""
    return f"; the other {len(renamed)} are. Save the network without them"


def some(keys: Iterable[str]) -> str:
    """The first six of `keys` in order, and how many more there are."""
    names = sorted(printable(key, 80) for key in keys)
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more


def _fold_conv_biases(tensors: Tensors, path: object) -> Tensors:
    """Subtract the bias that Keras v1 adds before each BatchNorm from its running mean instead."""
    folded = {}
    for key, tensor in tensors.items():
        module, _, leaf = key.rpartition("/")
        if leaf == "bias" and layouts.kind_of(module) == "conv":
            continue
        if leaf == "mean":
            conv = module.replace("batch_stats", "params").replace("downsample_1", "downsample_0")
            bias = tensors.get(re.sub(r"bn(\d)$", r"conv\1", conv) + "/bias", np.zeros_like(tensor))
            if bias.shape != tensor.shape:
                raise UserError(
                    f"{path}: {key} has shape {tensor.shape}, the bias before it {bias.shape}"
                )
            tensor = tensor - bias
        folded[key] = tensor
    return folded


def canonical(file: WeightsFile) -> tuple[Tensors, Architecture]:
    """A file's tensors under our names and in our layout, and the architecture they imply.

    Raises:
        UserError: the file holds another family of network, unknown tensors, or tensors that make
            up no ResNet of `models.resnet.DEPTHS`.
    """
    families.refuse_others(file.tensors, file.path)
    tensors = _rename(file)
    if file.format in ("keras_legacy_h5", "keras3_weights_h5"):
        is_2017 = any(re.search(r"(^|/)res2a", key) for key in file.tensors)
        variant, epsilon = "v1", 1e-3 if is_2017 else EPSILON["v1"]
        return _fold_conv_biases(tensors, file.path), _architecture(tensors, variant, epsilon, file)
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
    blocks_by_stage: dict[str, set[str]] = {str(stage): set() for stage in (1, 2, 3, 4)}
    for key in tensors:
        if match := re.match(r"params/layer([1-4])_(\d+)/conv", key):
            blocks_by_stage[match[1]].add(match[2])
    blocks = tuple(map(len, blocks_by_stage.values()))
    bottleneck = "params/layer1_0/conv3/kernel" in tensors
    depths = [depth for depth, row in DEPTHS.items() if row == (bottleneck, blocks)]
    if not depths:
        known = ", ".join(map(str, DEPTHS))
        raise UserError(
            f"{file.path}: stages of {list(blocks)} blocks make up none of the ResNets {known}"
        )
    if "params/conv1/kernel" not in tensors:
        raise UserError(f"{file.path}: conv1 is missing")
    if empty := [name for name, tensor in tensors.items() if not tensor.size]:
        raise UserError(f"{file.path}: {some(empty)} hold no numbers")
    head = tensors.get(f"{_HEAD_PREFIX}kernel")
    return Architecture(
        depth=depths[0],
        width=tensors["params/conv1/kernel"].shape[-1] / 64,
        variant=variant,
        epsilon=epsilon,
        num_classes=None if head is None else head.shape[-1],
    )


def check_finite(tensors: Tensors, epsilon: float, path: object) -> None:
    """Raise UserError if a tensor's numbers make every output NaN."""
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise UserError(
                f"{path}: {name} holds NaN or infinity, after a training that diverged or by "
                "damage; take an earlier checkpoint, or copy it again"
            )
        if name.endswith("/var") and not (tensor + epsilon > 0).all():
            raise UserError(f"{path}: {name} holds negative variances: the file is damaged")


def to_variables(
    tensors: Tensors, shapes: dict[str, Any], *, head: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Fill the tree `shapes` (of anything with a shape) with `tensors`, each used once.

    `head` holds params that replace the file's head; without it the file needs a head.

    Raises:
        UserError: a tensor is missing, superfluous or misshapen; the message names it.
    """
    if head is not None:
        tensors = {key: value for key, value in tensors.items() if not key.startswith(_HEAD_PREFIX)}
        tensors |= {f"{_HEAD_PREFIX}{name}": np.asarray(value) for name, value in head.items()}
    expected = {"/".join(path): leaf for path, leaf in traverse_util.flatten_dict(shapes).items()}
    if missing := expected.keys() - tensors.keys():
        raise UserError(f"the weights lack {some(missing)}")
    if superfluous := tensors.keys() - expected.keys():
        raise UserError(f"the network has no place for {some(superfluous)}")
    wrong = [
        f"{key} {tensors[key].shape} instead of {leaf.shape}"
        for key, leaf in expected.items()
        if tensors[key].shape != leaf.shape
    ]
    if wrong:
        raise UserError(f"the weights do not fit the network: {some(wrong)}")
    return traverse_util.unflatten_dict({tuple(k.split("/")): v for k, v in tensors.items()})


def from_variables(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Our variables under torchvision's names and in its layout."""
    leaves = {
        (kind, collection, ours): theirs
        for (kind, theirs), (collection, ours) in layouts.TORCH_LEAVES.items()
    }
    tensors = {}
    for path, leaf in traverse_util.flatten_dict(variables).items():
        collection, *modules, name = path
        their_leaf = leaves[layouts.kind_of(modules[-1]), collection, name]
        module = ".".join(modules).replace("downsample_", "downsample.")
        module = re.sub(r"^(layer\d)_", r"\1.", module)
        tensors[f"{module}.{their_leaf}"] = np.ascontiguousarray(_to_torch(np.asarray(leaf)))
    return tensors
