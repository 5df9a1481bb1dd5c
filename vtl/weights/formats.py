"""Weight files as flat dicts of numpy arrays, read without PyTorch, Keras or TensorFlow.

A weight file comes from the internet, so nothing in it is trusted: none of its code runs, no other
file is opened on its word, and no size is believed before it is held against the file's own. The
one exception: an index of safetensors names shards, which lie beside it.
"""

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import safe_open

from vtl.errors import UserError
from vtl.weights import keras_h5, pytorch
from vtl.weights.untrusted import EXPECTED, Tensors, check_present, open_zip

_MAX_INDEX_BYTES = 1 << 24  # a ResNet-152's takes some 100 kB

_Read = tuple[str, Tensors, dict[str, str]]
"""Format, tensors as they are stored, metadata."""


@dataclass(frozen=True)
class WeightsFile:
    """What a weight file holds.

    `format` is "safetensors", "torch", "keras_legacy_h5" or "keras3_weights_h5".
    """

    path: Path
    format: str
    tensors: Tensors
    metadata: dict[str, str]
    dtypes: tuple[str, ...] = ()
    """The floating-point types in the file, such as ("float16", "float32")."""


def read(path: str | Path) -> WeightsFile:
    """Reads a weight file, recognised by its content and never by its extension.

    A safetensors file may come in shards; `path` is then that of their index, a JSON file.
    Tensors keep their names, except that Keras' ":0" and one dict around all of PyTorch's
    ({"state_dict": ...}) are taken off, and that Keras 3's go by their layer's own name, if the
    file has it. float16 and bfloat16 come out as float32, every other type as it is; arrays may be
    read-only views.
    Raises UserError for a file that isn't one of weights, is incomplete, or wants code to be run.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "there is no such file"
        raise UserError(f"{path}: {what}; {EXPECTED}")
    with _errors_of(path):
        format, stored, metadata = _READERS[_recognise(path)](path)
        tensors = {name: _widen(array) for name, array in stored.items()}
        dtypes = {a.dtype.name for a in stored.values() if a.dtype.kind == "f" or _is_half(a)}
    return WeightsFile(path, format, tensors, metadata, tuple(sorted(dtypes)))


def files_of(path: str | Path) -> list[Path]:
    """The files that `read` reads: the one at `path` or, if it is an index, that and its shards.

    Raises UserError for a file that can't be opened and for an index that `read` refuses.
    """
    path = Path(path)
    with _errors_of(path):
        return [path, *_shards(path)[0]] if _recognise(path) == "index" else [path]


@contextlib.contextmanager
def _errors_of(where: object) -> Iterator[None]:
    """Turns any exception into a UserError of one line that begins with `where`."""
    try:
        yield
        return
    except UserError as error:
        reason = str(error)
    except Exception as error:  # hostile bytes make the libraries below raise nearly anything
        reason = f"can't be read, damaged or incomplete ({type(error).__name__}: {error})"
    # The reason may quote the file, which may hold newlines and terminal escapes.
    raise UserError(f"{where}: {re.sub('[^ -~]+', ' ', reason)[:500]}")


def _widen(array: np.ndarray) -> np.ndarray:
    """The array in native byte order, half precision as float32; UserError if it isn't numbers."""
    if _is_half(array):
        return array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise UserError(f"holds values of type {array.dtype}; expected numbers")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _is_half(array: np.ndarray) -> bool:
    return array.dtype in (np.float16, ml_dtypes.bfloat16)


def _recognise(path: Path) -> str:
    """The container that a file's first bytes speak of."""
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head[8:9] == b"{":
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80"):
        return "pickle"
    if text.startswith(b"{"):
        return "index"
    if not head:
        what = "is empty"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml")):
        what = "is a web page and not the file that was asked for"
    elif text.startswith(b"version https://git-lfs"):
        what = "is a Git LFS pointer to the real file; run git lfs pull"
    elif re.match(rb"\x08[\x01-\x20][\x12\x3a]", head):
        what = "looks like an ONNX graph; save the state_dict() of the network it was made from"
    elif head[257:262] == b"ustar":
        what = "is a tar, which PyTorch wrote until 2017; torch.load and torch.save it once more"
    else:
        what = f"begins with {head[:8]!r}, which no known format does"
    raise UserError(f"{what}; {EXPECTED}")


def _read_torch(path: Path) -> _Read:
    tensors = pytorch.read(path)
    # They may overlap, and each is widened by itself.
    halves = sum(array.nbytes for array in tensors.values() if _is_half(array))
    check_present("list of half-precision tensors", halves, path.stat().st_size)
    return "torch", tensors, {}


def _read_keras(path: Path) -> _Read:
    return *keras_h5.read(path), {}


def _read_zip(path: Path) -> _Read:
    with path.open("rb") as file:
        is_keras = keras_h5.ARCHIVED in open_zip(file).namelist()
    return _read_keras(path) if is_keras else _read_torch(path)


def _read_safetensors(path: Path) -> _Read:
    present = path.stat().st_size
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        check_present("header", start, present)
        header = json.loads(file.read(start - 8))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    check_present("header", start + max(ends, default=0), present)
    with safe_open(path, framework="numpy") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return "safetensors", tensors, opened.metadata() or {}


def _read_index(path: Path) -> _Read:
    """The tensors of all shards, which are those that the index lists, and the index's metadata."""
    tensors: Tensors = {}
    shards, metadata = _shards(path)
    for shard, listed in shards.items():
        with _errors_of(f"shard {shard.name}"):
            if _recognise(shard) != "safetensors":
                raise UserError("isn't a safetensors file")
            _, found, _ = _read_safetensors(shard)
            if missing := listed - found.keys():
                raise UserError(f"lacks {min(missing)}, which the index lists")
            if unlisted := found.keys() - listed:
                raise UserError(f"holds {min(unlisted)}, which the index doesn't list there")
        tensors |= found
    return "safetensors", tensors, metadata


def _shards(path: Path) -> tuple[dict[Path, set[str]], dict[str, str]]:
    """An index's shards by name, with the tensors that it lists for each, and its metadata."""
    if path.stat().st_size > _MAX_INDEX_BYTES:
        raise UserError(f"is JSON, larger than any index of safetensors; {EXPECTED}")
    index = json.loads(path.read_bytes(), object_pairs_hook=_once)
    weight_map, metadata = index.get("weight_map"), index.get("metadata") or {}
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"is JSON, but not an index of safetensors; {EXPECTED}")
    shards: dict[Path, set[str]] = {}
    for tensor, name in sorted(weight_map.items(), key=lambda item: (str(item[1]), item[0])):
        if not isinstance(name, str) or not re.fullmatch(r"(?!\.)[^/\\:\0]+", name):
            raise UserError(f"lists the shard {name!r}, which isn't a plain file name; refused")
        shards.setdefault(path.with_name(name), set()).add(tensor)
    for shard in shards:
        if shard.resolve().parent != path.parent.resolve():
            raise UserError(f"shard {shard.name} is a link to somewhere else; refused")
        if not shard.is_file():
            raise UserError(f"shard {shard.name} is missing; fetch it into the same directory")
    return shards, {name: str(value) for name, value in metadata.items()}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise UserError(f"lists {name} {count} times")
    return dict(pairs)


def write_safetensors(path: str | Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    """Writes a safetensors file under a temporary name, then renames it.

    The same tensors and metadata give the same bytes, which the library's writer doesn't promise;
    that one also disregards strides.
    """
    path = Path(path)
    # Wide types first, so that every tensor is aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in ordered:
        dtype = tensor.dtype
        if dtype.kind not in "fiub":
            raise TypeError(f"{name} is of type {dtype}; write_safetensors takes numpy's numbers")
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}",
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, tensor in ordered:
                file.write(tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


_READERS = {
    "safetensors": _read_safetensors,
    "index": _read_index,
    "hdf5": _read_keras,
    "zip": _read_zip,
    "pickle": _read_torch,
}
