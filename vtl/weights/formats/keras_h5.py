"""The HDF5 files of Keras as numpy arrays, read without Keras.

There are two layouts. The legacy one lists its layers, and their weights, by name. Keras 3's
`.weights.h5`, which a `.keras` archive also holds, numbers the layers of each type in the order of
`model.layers`, and a layer's variables; its later versions note the layer's own name.
"""

import io
import itertools
import math
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from vtl.errors import UserError
from vtl.untrusted import open_plain
from vtl.weights.formats.untrusted import (
    Tensors,
    check_count,
    check_present,
    check_stored,
    open_zip,
)

ARCHIVED = "model.weights.h5"
"""The member of a `.keras` archive that holds the weights."""

CONFIG = "model_config"
"""The metadata's entry for what the file says of the model's layers, as JSON."""

_ARCHIVED_CONFIG = "config.json"
_MAX_CONFIG_BYTES = 1 << 24
_MAX_NAMES_BYTES = 1 << 30
"""What a list of names may take, where each may be the longest text of the file."""

_HEAP = b"GCOL\x01\0\0\0"
"""How a place for texts of any length begins; its size in 8 bytes follows."""


def read(path: Path) -> tuple[str, Tensors, dict[str, str]]:
    """Layout's name, weights of all layers, metadata of an HDF5 file or a `.keras` archive.

    Legacy weights go by their names less ":0". Keras 3's go by their path, `layers/conv2d_1/vars/0`
    or, where the layer has a name of its own in the file, `conv2_block1_1_conv/vars/0`.
    """
    present = path.stat().st_size
    tensors: Tensors = {}
    promised = 0
    hdf5, config = _open(path)
    longest = _longest_text(hdf5)
    with h5py.File(hdf5, "r") as file:
        if CONFIG in file.attrs and not config:
            config = _config_of(file)
        layout, weights = _weights(file, longest)
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
            check_count("weights", len(tensors))
    return layout, tensors, {CONFIG: config} if config else {}


def _open(path: Path) -> tuple[Path | io.BytesIO, str]:
    """What h5py opens, and the archive's config, "" if there is none."""
    with open_plain(path) as file:
        if file.read(2) != b"PK":
            return path, ""
        archive = open_zip(file)
        check_stored(archive, file)
        config = b""
        if _ARCHIVED_CONFIG in archive.namelist():
            size = archive.getinfo(_ARCHIVED_CONFIG).file_size
            config = archive.read(_ARCHIVED_CONFIG) if size <= _MAX_CONFIG_BYTES else b""
        return io.BytesIO(archive.read(ARCHIVED)), config.decode(errors="replace")


def _config_of(file: h5py.File) -> str:
    """The attribute in which Keras keeps a model's config, "" if it is no single text."""
    attribute = file.attrs.get_id(CONFIG)
    if attribute.shape != () or h5py.check_string_dtype(attribute.dtype) is None:
        return ""
    text = file.attrs[CONFIG]
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def _longest_text(hdf5: Path | io.BytesIO) -> int:
    """No text of the file is longer: 10,000 names may all be one text of a megabyte."""
    if isinstance(hdf5, io.BytesIO):
        return _longest_heap(hdf5.getbuffer())
    with hdf5.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _longest_heap(content)


def _longest_heap(content: mmap.mmap | memoryview) -> int:
    longest = 0
    for match in re.finditer(re.escape(_HEAP), content):
        size = int.from_bytes(content[match.end() : match.end() + 8], "little")
        if size <= len(content):
            _check_heap(content, match.start(), size)
            longest = max(longest, size)
    return longest


def _check_heap(content: mmap.mmap | memoryview, start: int, size: int) -> None:
    """Raise UserError if the texts of a heap don't lie one after another: HDF5 may then never end.

    Source: "Disk Format: Level 1E - Global Heap" of the HDF5 File Format Specification 3.0.
    """
    offset = start + 16
    while offset + 16 <= start + size:
        index = int.from_bytes(content[offset : offset + 2], "little")
        length = int.from_bytes(content[offset + 8 : offset + 16], "little")
        # Index 0 is free space, whose length counts its header.
        step = length if index == 0 else 16 + (length + 7) // 8 * 8
        if not 0 < step <= start + size - offset:
            raise UserError("is damaged: its texts don't fit into the heap that holds them")
        offset += step


def _weights(file: h5py.File, longest: int) -> tuple[str, Iterator[tuple[str, Any]]]:
    """The layout's name, and each weight's name and data set."""
    root = _child(file, "model_weights") if _has(file, "model_weights") else file
    if layers := _names(root, "layer_names", longest):
        if _has(root, "top_level_model_weights"):
            layers.append("top_level_model_weights")
        return "keras_legacy_h5", _legacy_weights(root, layers, longest)
    if _has(file, "layers"):
        return "keras3_weights_h5", _keras_3_weights(file, "", set())
    raise UserError(
        "is HDF5 of no known layout; expected what Keras writes with "
        'model.save("NAME.h5") or model.save_weights("NAME.weights.h5")'
    )


def _legacy_weights(root: Any, layers: list[str], longest: int) -> Iterator[tuple[str, Any]]:
    count = 0
    for layer in layers:
        group = _child(root, layer)
        for weight in _names(group, "weight_names", longest):
            count += 1
            check_count("weights", count)
            yield weight, _child(group, weight)


def _keras_3_weights(group: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """All data sets below `group`, which is at `path`; `seen` are the groups met on the way."""
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        raise UserError(f"{path} is in this file under two names; refused")
    seen.add(address)
    check_count("layers", len(seen))
    check_count("entries in one place", len(group))
    for name in group:
        child = _child(group, name)
        below = f"{path}/{name}" if path else name
        if not isinstance(child, h5py.Group):
            yield below, child
            continue
        if re.search(r"(^|/)layers/[^/]+/vars$", below) and "name" in child.attrs:
            below = f"{child.attrs['name']}/vars"
        yield from _keras_3_weights(child, below, seen)


def _names(group: Any, attribute: str, longest: int) -> list[str]:
    """A list of names, which Keras spreads over NAME0, NAME1, ... where it is long.

    Texts of any length lie elsewhere in the file, perhaps all in one place; none is longer than
    `longest` bytes.
    """
    parts = itertools.takewhile(
        group.attrs.__contains__, (f"{attribute}{part}" for part in itertools.count())
    )
    names: list[str] = []
    for part in [attribute] if attribute in group.attrs else parts:
        described = group.attrs.get_id(part)
        count = math.prod(described.shape)
        check_count("names", len(names) + count)
        if described.dtype.kind == "O" and count * longest > _MAX_NAMES_BYTES:
            raise UserError(f"holds {count} names of up to {longest:,} bytes in {part}; refused")
        names += [
            name.decode(errors="replace") if isinstance(name, bytes) else str(name)
            for name in group.attrs[part]
        ]
    return names


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
