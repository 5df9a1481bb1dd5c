"""A head by itself: a probe's, in a file of its own, or the weights' own."""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from vtl.decisions import Decisions
from vtl.errors import UserError
from vtl.files import file_sha256, user_path
from vtl.models import HEAD
from vtl.models.architecture import Architecture
from vtl.models.head import num_features
from vtl.preprocessing import Preprocessing
from vtl.untrusted import printable
from vtl.weights import convert, formats, metadata, sources
from vtl.weights.formats import safetensors

FILE_NAME = "head.safetensors"


class Head(NamedTuple):
    """A head {kernel [D, C], bias [C]}, and what it sees, by the names of `models.head`."""

    params: dict[str, np.ndarray]
    pooling: str
    transform: str
    regions: int


def save(
    directory: Path,
    kernel: np.ndarray,
    bias: np.ndarray,
    *,
    classes: tuple[str, ...],
    features: dict[str, Any],
    transform: str = "none",
    decisions: Decisions | None = None,
    multi_label: bool = True,
) -> None:
    """Write kernel [D, C] and bias [C] by torchvision's names, with the meta of their features.

    `transform` is what the head does to the features first.
    """
    text = metadata.head_text(classes, features, transform, decisions, multi_label=multi_label)
    safetensors.write(
        directory / FILE_NAME,
        {f"{HEAD}.weight": np.ascontiguousarray(kernel.T), f"{HEAD}.bias": bias},
        {"format": "pt", metadata.HEAD_KEY: text},
    )


def load(
    directory: str | Path,
    *,
    classes: tuple[str, ...],
    weights_sha256: str,
    architecture: Architecture,
    preprocessing: Preprocessing,
) -> Head:
    """A probe's head for a network of `architecture`, its columns in the order of `classes`.

    Raises:
        UserError: there is no head, or it is for other classes, weights or another layer.
    """
    where = f"head_from={printable(directory)}"
    path = user_path(directory) / FILE_NAME
    if not path.exists():
        raise UserError(f"{where}: no finished probe there ({FILE_NAME} is missing)")
    meta, kernel, bias = _read(path)
    _check_features(where, meta, weights_sha256, len(kernel), architecture)
    if meta.preprocessing and meta.preprocessing != preprocessing:
        logging.warning(
            "%s: its features were computed with other preprocessing (%s)",
            where,
            meta.preprocessing,
        )
    params = _ordered(where, kernel, bias, meta.classes, classes)
    return Head(params, meta.pooling, meta.transform, regions=0)


def _read(path: Path) -> tuple[metadata.HeadMeta, np.ndarray, np.ndarray]:
    """What a probe's file says of its head, and the head's kernel [D, C] and bias [C]."""
    file = formats.read(path)
    meta = metadata.read_head(file)
    return meta, *_tensors(file, len(meta.classes))


def _tensors(file: formats.WeightsFile, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The kernel [D, C] and bias [C] of a probe's file."""
    names = f"{HEAD}.weight", f"{HEAD}.bias"
    if missing := set(names) - file.tensors.keys():
        raise UserError(f"{printable(file.path)}: it lacks {', '.join(sorted(missing))}")
    weight, bias = (file.tensors[name] for name in names)
    if weight.ndim != 2 or len(weight) != num_classes or bias.shape != (num_classes,):
        raise UserError(
            f"{printable(file.path)}: {HEAD}.weight {weight.shape} and {HEAD}.bias {bias.shape} "
            f"don't fit its {num_classes} classes"
        )
    for name, tensor in zip(names, (weight, bias), strict=True):
        if tensor.dtype.kind != "f" or not np.isfinite(tensor).all():
            raise UserError(f"{printable(file.path)}: {name} holds other than finite numbers")
    return weight.T, bias


def _check_features(
    where: str,
    meta: metadata.HeadMeta,
    weights_sha256: str,
    width: int,
    architecture: Architecture,
) -> None:
    """UserError if the head was fitted to other features than the network's."""
    if meta.weights_sha256 is None:
        logging.warning(
            "%s: its features don't say of which weights they are; assuming that they are of these",
            where,
        )
    elif meta.weights_sha256 != weights_sha256:
        raise UserError(
            f"{where}: its features came from other weights "
            f"(sha256 {printable(meta.weights_sha256[:8])}… instead of {weights_sha256[:8]}…)"
        )
    last, count = architecture.stages[-1], num_features(architecture.num_channels, meta.pooling)
    layer = meta.layer or last
    is_seen = meta.pooling in architecture.poolings
    if (layer, meta.pool) != (last, 1) or width != count or not is_seen:
        raise UserError(
            f"{where}: its features are {width} numbers of {printable(layer, 20)} with "
            f"pool={meta.pool}, the network's head takes the {count} of {last} with pool=1"
        )


def _ordered(
    where: str,
    kernel: np.ndarray,
    bias: np.ndarray,
    have: tuple[str, ...],
    want: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """The params with the columns of `have` in the order of `want`."""
    try:
        order = metadata.columns(have, want)
    except UserError as error:
        raise UserError(
            f"{where}: its head is for other classes than the data's: {error}"
        ) from None
    return {"kernel": kernel[:, order], "bias": bias[order]}


def keep(weights: sources.Weights, classes: tuple[str, ...]) -> Head:
    """The weights' own head, its columns in the order of `classes`.

    Raises:
        UserError: they have no head, it is for other classes, or nothing says for which.
    """
    where = f"head=keep: {printable(weights.path)}"
    otherwise = "choose head=probe, zeros or random"
    if weights.architecture.num_classes is None:
        raise UserError(f"{where} has no head: {otherwise}")
    names = sources.known_class_names(weights)
    if names is None:
        raise UserError(
            f"{where} doesn't say which of its {weights.architecture.num_classes} columns is of "
            f"which class: {otherwise},\nor name them, one a line: vtl weights convert FILE -o OUT "
            "--classes=NAMES.txt"
        )
    prefix = f"params/{HEAD}/"
    head = {name: t for name, t in weights.tensors.items() if name.startswith(prefix)}
    own = weights.architecture
    convert.check_finite(head, own.batch_norm_epsilon, weights.path)
    if missing := {f"{prefix}kernel", f"{prefix}bias"} - head.keys():
        raise UserError(f"{where} lacks {missing.pop()}: {otherwise}")
    params = _ordered(where, head[f"{prefix}kernel"], head[f"{prefix}bias"], names, classes)
    return Head(params, own.pooling, own.transform, own.regions)


def _is_probe(name_or_path: str) -> bool:
    """Whether that is the directory of a finished linear probe."""
    return name_or_path not in sources.SOURCES and os.path.isfile(_file_in(name_or_path))


def load_network(name_or_path: str, *, trunk: str = "") -> sources.Weights:
    """As `sources.load`; of a finished probe, its head on the network that its features came from.

    `trunk` says where that network is now; "" is where it was.

    Raises:
        UserError: as in `sources.load`, or the probe's network is gone, another or can't be joined.
    """
    if not _is_probe(name_or_path):
        if trunk:
            raise UserError(
                f"--weights={printable(trunk)} is for a finished probe, and "
                f"{printable(name_or_path)} is none: leave it out"
            )
        return sources.load(name_or_path)
    where, path = printable(name_or_path), _file_in(name_or_path)
    meta, kernel, bias = _read(path)
    name = trunk or meta.weights_name
    if not name:
        raise UserError(
            f"{where} is a probe on features that don't say of which weights they are: name them, "
            "as in --weights=FILE"
        )
    try:
        weights = sources.load(name)
    except UserError as error:
        raise UserError(
            f"{where} is a probe, and the network of its features can't be read:\n"
            f"{str(error).splitlines()[0]}\nSay where it is now: --weights=FILE"
        ) from error
    _check_features(where, meta, weights.sha256, len(kernel), weights.architecture)
    body = {
        name: tensor
        for name, tensor in weights.tensors.items()
        if not name.startswith(f"params/{HEAD}/")
    }
    head = {f"params/{HEAD}/kernel": kernel, f"params/{HEAD}/bias": bias}
    architecture = dataclasses.replace(
        weights.architecture,
        num_classes=len(meta.classes),
        pooling=meta.pooling,
        transform=meta.transform,
        regions=0,
    )
    hashes = weights.sha256 + file_sha256(path)
    return dataclasses.replace(
        weights,
        name=name_or_path,
        path=path,
        sha256=hashlib.sha256(hashes.encode()).hexdigest(),
        tensors=body | head,
        architecture=architecture,
        preprocessing=meta.preprocessing or weights.preprocessing,
        classes=meta.classes,
        multi_label=meta.multi_label,
        given_by="the features that its head was fitted to",
        decisions=meta.decisions,
    )


def _file_in(directory: str) -> Path:
    return user_path(directory) / FILE_NAME
