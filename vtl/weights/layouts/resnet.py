"""ResNet's weights in other frameworks' layouts: torchvision's, timm's, transformers', Keras'."""

import re
from collections.abc import Collection
from typing import Any

import numpy as np
from flax import traverse_util

from vtl.errors import UserError
from vtl.models import HEAD
from vtl.models.resnet import DEPTHS, EPSILON, Architecture
from vtl.preprocessing import CAFFE, MICROSOFT, TORCHVISION, Preprocessing
from vtl.weights.formats import WeightsFile
from vtl.weights.layouts import akin, names, resnet_names
from vtl.weights.layouts.names import Tensors, some
from vtl.weights.statement import NotThisNetwork

FAMILY = Architecture

_TIMM_PLAIN = re.compile(r"(?:tv_|ssl_|swsl_|gluon_)?resnet(18|34|50|101|152)(?:_v1b)?(?:\..+)?")
"""timm's plain ResNets, tags included; resnetblur50 and resnetaa50 have the same tensors."""


def recognises(keys: Collection[str]) -> bool:
    """Whether tensors of these names may be a ResNet's."""
    return any(resnet_names.BODY.search(names.plain_name(key)) for key in keys)


def assumed(file: WeightsFile) -> tuple[Preprocessing, str]:
    """How photos are prepared if nothing says so, and as whose."""
    if any("embedder." in tensor for tensor in file.tensors):
        return MICROSOFT, "microsoft/resnet-50"
    if file.format.startswith("keras"):
        return CAFFE, "keras.applications"
    return TORCHVISION, "torchvision"


def of_timm(
    name: str, pool: str, arguments: dict[str, Any], implied: Architecture
) -> dict[str, Any]:
    """Fields of the architecture by timm's config; takes from its arguments what it understands.

    Raises:
        NotThisNetwork: it says another network.
    """
    match = _TIMM_PLAIN.fullmatch(name)
    if not match or int(match[1]) != implied.depth:
        raise NotThisNetwork(
            f"{name!r}: another network than a plain {implied.title}, which its tensors fit"
        )
    if pool not in ("avg", ""):
        raise NotThisNetwork(f"global_pool={pool!r}: vtl averages")
    if arguments.pop("output_stride", 32) != 32:
        raise NotThisNetwork("output_stride: vtl has no dilated ResNets")
    return {}


def of_transformers(config: dict[str, Any], implied: Architecture) -> dict[str, Any]:
    """Fields of the architecture by the config of Hugging Face's transformers.

    Raises:
        NotThisNetwork: it says another network.
    """
    kind = config.get("model_type")
    if kind != "resnet":
        raise NotThisNetwork(f"model_type={kind!r}: another network than a ResNet")
    row = DEPTHS[implied.depth]
    expected = {
        "depths": list(row.blocks),
        "layer_type": "bottleneck" if row.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "num_channels": 3,
    }
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise NotThisNetwork(
                f"{key}={config[key]!r}, and its tensors fit a {implied.title} of {value!r}"
            )
    return {"variant": "v1"} if config.get("downsample_in_bottleneck") else {}


def canonical(file: WeightsFile) -> tuple[Tensors, Architecture]:
    """A file's tensors under our names and in our layout, and the architecture they imply.

    Raises:
        UserError: the file holds another family of network, unknown tensors, or tensors that make
            up no ResNet of `models.resnet.DEPTHS`.
    """
    akin.refuse_others(file.tensors, file.path)
    tensors = _rename(file)
    if file.format in ("keras_legacy_h5", "keras3_weights_h5"):
        is_2017 = any(re.search(r"(^|/)res2a", key) for key in file.tensors)
        variant, epsilon = "v1", 1e-3 if is_2017 else EPSILON["v1"]
        return _fold_conv_biases(tensors, file.path), _architecture(tensors, variant, epsilon, file)
    tensors = {key: _from_torch(tensor) for key, tensor in tensors.items()}
    return tensors, _architecture(tensors, "v1.5", EPSILON["v1.5"], file)


def _rename(file: WeightsFile) -> Tensors:
    layout = resnet_names.layout_of(file.format, file.tensors, file.path)
    renamed: Tensors = {}
    unknown = []
    for key, tensor in file.tensors.items():
        if names.IGNORED.fullmatch(key):
            continue
        name, _, leaf = key.rpartition(layout.separator)
        module = layout.module_of(name)
        kind = resnet_names.kind_of(module) if module else ""
        if (kind, leaf) not in layout.leaves:
            unknown.append(key)
            continue
        collection, our_leaf = layout.leaves[kind, leaf]
        dimensions = {"conv": 4, "head": 2}[kind] if our_leaf == "kernel" else 1
        names.refuse_misshapen(key, np.shape(tensor), dimensions, file.path)
        ours = f"{collection}/{module}/{our_leaf}"
        if ours in renamed:
            names.refuse_twice(ours, key, file.path)
        with np.errstate(over="ignore"):  # what is beyond float32 is infinite, and refused as such
            renamed[ours] = np.asarray(tensor, np.float32)
    names.refuse_unknown(unknown, "a ResNet", len(renamed), file.path)
    return renamed


def _fold_conv_biases(tensors: Tensors, path: object) -> Tensors:
    """Subtract the bias that Keras v1 adds before each BatchNorm from its running mean instead."""
    folded = {}
    for key, tensor in tensors.items():
        module, _, leaf = key.rpartition("/")
        if leaf == "bias" and resnet_names.kind_of(module) == "conv":
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
    head = tensors.get(f"params/{HEAD}/kernel")
    return Architecture(
        depth=depths[0],
        width=tensors["params/conv1/kernel"].shape[-1] / 64,
        variant=variant,
        epsilon=epsilon,
        num_classes=None if head is None else head.shape[-1],
    )


def published(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Our variables under torchvision's names and in its layout."""
    leaves = {
        (kind, collection, ours): theirs
        for (kind, theirs), (collection, ours) in resnet_names.TORCH_LEAVES.items()
    }
    tensors = {}
    for path, leaf in traverse_util.flatten_dict(variables).items():
        collection, *modules, name = path
        their_leaf = leaves[resnet_names.kind_of(modules[-1]), collection, name]
        module = ".".join(modules).replace("downsample_", "downsample.")
        module = re.sub(r"^(layer\d)_", r"\1.", module)
        tensors[f"{module}.{their_leaf}"] = np.ascontiguousarray(_to_torch(np.asarray(leaf)))
    return tensors
