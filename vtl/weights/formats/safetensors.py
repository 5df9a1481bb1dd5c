"""safetensors files, whole or in shards: read on no one's word, and written the same every time."""

import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from vtl.errors import UserError
from vtl.files import whole_file
from vtl.untrusted import open_plain, printable
from vtl.weights.formats.untrusted import (
    EXPECTED,
    Tensors,
    check_count,
    check_present,
    errors_of,
)

_MAX_INDEX_BYTES = 1 << 24  # a ResNet-152's takes some 100 kB
_MAX_HEADER_BYTES = 1 << 24
_SEAL = "vtl_sha256"
"""The metadata's entry for the hash of all else, which a flipped bit then does not fit."""


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with these bytes is one: its header, JSON, follows its length."""
    return head[8:9] == b"{"


def read(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors as they are stored, and the metadata.

    Raises:
        UserError: the file is damaged, which a file of ours shows by its hash.
    """
    with open_plain(path) as file:
        present = os.fstat(file.fileno()).st_size
        start = 8 + int.from_bytes(file.read(8), "little")
        check_present("header", start, present)
        if start > _MAX_HEADER_BYTES:
            raise UserError(f"has a header of {start:,} bytes, more than any network needs")
        header = json.loads(file.read(start - 8))
    check_count("tensors", len(header))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    check_present("header", start + max(ends, default=0), present)
    with safe_open(path, framework="numpy") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = opened.metadata() or {}
    seal = metadata.pop(_SEAL, None)
    if seal is not None and seal != _digest(tensors, metadata):
        raise UserError(
            "is damaged: its content has another sha256 than when it was written; make or copy it "
            "again"
        )
    return tensors, metadata


def _digest(tensors: Tensors, metadata: dict[str, str]) -> str:
    """Of the metadata, and of each tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        stored = _little_endian(tensor)
        digest.update(json.dumps([name, _type_of(tensor), tensor.shape]).encode())
        digest.update(stored.tobytes())
    return digest.hexdigest()


def _little_endian(tensor: np.ndarray) -> np.ndarray:
    return tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)


def _type_of(tensor: np.ndarray) -> str:
    """The format's name for a tensor's type."""
    dtype = tensor.dtype
    return "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}"


def read_index(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors of all shards, which are those that the index lists, and the index's metadata."""
    tensors: Tensors = {}
    shards, metadata = shards_of(path)
    for shard, listed in shards.items():
        with errors_of(f"shard {shard.name}"):
            with open_plain(shard, inside=path.parent) as file:
                is_right = is_safetensors(file.read(9))
            if not is_right:
                raise UserError("isn't a safetensors file")
            found, _ = read(shard)
            if missing := listed - found.keys():
                raise UserError(f"lacks {printable(min(missing), 80)}, which the index lists")
            if unlisted := found.keys() - listed:
                name = printable(min(unlisted), 80)
                raise UserError(f"holds {name}, which the index doesn't list there")
        tensors |= found
    return tensors, metadata


def shards_of(path: Path) -> tuple[dict[Path, set[str]], dict[str, str]]:
    """An index's shards by name, with the tensors that it lists for each, and its metadata."""
    with open_plain(path) as file:
        if os.fstat(file.fileno()).st_size > _MAX_INDEX_BYTES:
            raise UserError(f"is JSON, larger than any index of safetensors; {EXPECTED}")
        index = json.loads(file.read(), object_pairs_hook=_once)
    weight_map, metadata = index.get("weight_map"), index.get("metadata") or {}
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"is JSON, but not an index of safetensors; {EXPECTED}")
    check_count("tensors", len(weight_map))
    shards: dict[Path, set[str]] = {}
    for tensor, name in sorted(weight_map.items(), key=lambda item: (str(item[1]), item[0])):
        if not isinstance(name, str) or not re.fullmatch(r"(?!\.)[^/\\:\0]+", name):
            shown = printable(repr(name), 80)
            raise UserError(f"lists the shard {shown}, which isn't a plain file name; refused")
        shards.setdefault(path.with_name(name), set()).add(tensor)
    for shard in shards:
        if Path(os.path.realpath(shard)).parent != Path(os.path.realpath(path.parent)):
            raise UserError(
                f"shard {printable(shard.name, 80)} is a link to somewhere else; refused"
            )
        if not shard.is_file():
            shown = printable(shard.name, 80)
            raise UserError(f"shard {shown} is missing; fetch it into the same directory")
    return shards, {name: str(value) for name, value in metadata.items()}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise UserError(f"lists {printable(name, 80)} {count} times")
    return dict(pairs)


def write(path: str | Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    """Writes a safetensors file with a hash of its content, by `files.whole_file`.

    The same tensors and metadata give the same bytes, which the library's writer doesn't promise;
    that one also disregards strides.
    """
    path = Path(path)
    # Wide types first, so that every tensor is aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": metadata | {_SEAL: _digest(tensors, metadata)}}
    end = 0
    for name, tensor in ordered:
        if tensor.dtype.kind not in "fiub":
            raise TypeError(f"{name} is of type {tensor.dtype}; safetensors take numpy's numbers")
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _type_of(tensor),
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            file.write(_little_endian(tensor).tobytes())
