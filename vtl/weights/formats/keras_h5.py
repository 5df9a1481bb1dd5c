"""The HDF5 files of Keras as numpy arrays, read without Keras.

There are two layouts. The legacy one lists its layers, and their weights, by name. Keras 3's
`.weights.h5`, which a `.keras` archive also holds, numbers the layers of each type in the order of
`model.layers`, and a layer's variables; its later versions note the layer's own name.
"""

import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from vtl.errors import UserError
from vtl.weights.formats.untrusted import Tensors, check_present, check_stored, open_zip

ARCHIVED = "model.weights.h5"
"""The member of a `.keras` archive that holds the weights."""


def read(path: Path) -> tuple[str, Tensors]:
    """The layout's name and the weights of all layers, from an HDF5 file or a `.keras` archive.

    Legacy weights go by their names less ":0". Keras 3's go by their path, `layers/conv2d_1/vars/0`
    or, where the layer has a name of its own in the file, `conv2_block1_1_conv/vars/0`.
    """
    present = path.stat().st_size
    tensors: Tensors = {}
    promised = 0
    with h5py.File(_hdf5(path), "r") as file:
        layout, weights = _weights(file)
        for weight, dataset in weights:
            if not _is_plain(dataset):
                raise UserError(f"{weight} isn't a plain array of numbers in this file; refused")
            promised += dataset.nbytes
            check_present("list of weights", promised, present)
            name = weight.removesuffix(":0")
            if name in tensors:
                raise UserError(f"has two weights named {name}")
            array = np.asarray(dataset[()])
            tensors[name] = array.view(ml_dtypes.bfloat16) if _is_bfloat16(dataset) else array
    return layout, tensors


def _hdf5(path: Path) -> Path | io.BytesIO:
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return path
        archive = open_zip(file)
        check_stored(archive, file)
        return io.BytesIO(archive.read(ARCHIVED))


def _weights(file: h5py.File) -> tuple[str, Iterator[tuple[str, Any]]]:
    """The layout's name, and each weight's name and data set."""
    root = _child(file, "model_weights") if _has(file, "model_weights") else file
    if layers := _names(root, "layer_names"):
        if _has(root, "top_level_model_weights"):
            layers.append("top_level_model_weights")
        return "keras_legacy_h5", _legacy_weights(root, layers)
    if _has(file, "layers"):
        return "keras3_weights_h5", _keras_3_weights(file, "", set())
    raise UserError(
        "is HDF5 of no known layout; expected what Keras writes with "
        'model.save("NAME.h5") or model.save_weights("NAME.weights.h5")'
    )


def _legacy_weights(root: Any, layers: list[str]) -> Iterator[tuple[str, Any]]:
    for layer in layers:
        group = _child(root, layer)
        for weight in _names(group, "weight_names"):
            yield weight, _child(group, weight)


def _keras_3_weights(group: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """All data sets below `group`, which is at `path`; `seen` are the groups met on the way."""
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        raise UserError(f"{path} is in this file under two names; refused")
    seen.add(address)
    for name in group:
        child = _child(group, name)
        below = f"{path}/{name}" if path else name
        if not isinstance(child, h5py.Group):
            yield below, child
            continue
        if re.search(r"(^|/)layers/[^/]+/vars$", below) and "name" in child.attrs:
            below = f"{child.attrs['name']}/vars"
        yield from _keras_3_weights(child, below, seen)


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names, which Keras spreads over NAME0, NAME1, ... where it is long."""
    parts = itertools.takewhile(
        group.attrs.__contains__, (f"{attribute}{part}" for part in itertools.count())
    )
    whole = [attribute] if attribute in group.attrs else parts
    names = [name for part in whole for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _has(group: Any, name: str) -> bool:
    # `name in group` would follow a link into another file.
    return group.id.links.exists(name.encode())


def _child(group: Any, path: str) -> Any:
    """The group or data set at `path`, reached without following a link to anywhere else."""
    for name in path.split("/"):
        if not isinstance(group, h5py.Group) or not _has(group, name):
            raise UserError(f"lists {path} but doesn't hold it")
        if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise UserError(f"{path} is a link to somewhere else; refused")
        group = group[name]
    return group


def _is_plain(dataset: Any) -> bool:
    """Neither compressed (a bomb), nor virtual or external (another file), nor of strings."""
    return (
        isinstance(dataset, h5py.Dataset)
        and dataset.id.get_create_plist().get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
        and not dataset.external
        and (dataset.dtype.kind in "fiub" or _is_bfloat16(dataset))
    )


def _is_bfloat16(dataset: Any) -> bool:
    """HDF5 has no such type: Keras writes two opaque bytes and says so beside them."""
    return dataset.dtype == np.dtype("V2") and dataset.attrs.get("dtype") == "bfloat16"
