"""Weight files as flat dicts of numpy arrays, read without PyTorch, Keras or TensorFlow.

A weight file comes from the internet, so nothing in it is trusted: none of its code runs, no other
file is opened on its word, and no size is believed before it is held against the file's own. The
one exception: an index of safetensors names shards, which lie beside it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from vtl.errors import UserError
from vtl.untrusted import open_plain
from vtl.weights.formats import keras_h5, pytorch, safetensors
from vtl.weights.formats.untrusted import (
    EXPECTED,
    Tensors,
    check_count,
    check_present,
    errors_of,
    open_zip,
)

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
    with errors_of(path):
        format, stored, metadata = _READERS[_recognise(path)](path)
        check_count("tensors", len(stored))
        tensors = {name: _widen(array) for name, array in stored.items()}
        dtypes = {a.dtype.name for a in stored.values() if a.dtype.kind == "f" or _is_half(a)}
    return WeightsFile(path, format, tensors, metadata, tuple(sorted(dtypes)))


def files_of(path: str | Path) -> list[Path]:
    """The files that `read` reads: the one at `path` or, if it is an index, that and its shards.

    Raises UserError for a file that can't be opened and for an index that `read` refuses.
    """
    path = Path(path)
    with errors_of(path):
        return [path, *safetensors.shards_of(path)[0]] if _recognise(path) == "index" else [path]


def _widen(array: np.ndarray) -> np.ndarray:
    """The array in native byte order, half precision as float32; UserError if it isn't numbers."""
    if _is_half(array):
        return array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise UserError(f"holds values of type {array.dtype}; expected numbers")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _is_half(array: np.ndarray) -> bool:
    return array.dtype in (np.float16, ml_dtypes.bfloat16)


_PACKED = {
    b"\x1f\x8b": "compressed by gzip",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
}
_OTHERS = {
    b"\xff\xd8\xff": "a JPEG photo",
    b"\x89PNG": "a PNG picture",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
    b"GGUF": "a GGUF file, of a language model",
}


def _recognise(path: Path) -> str:
    """The container that a file's first bytes speak of."""
    if not path.exists():
        raise UserError(f"there is no such file; {EXPECTED}")
    if path.is_dir():
        raise UserError(f"is a directory; {EXPECTED}")
    with open_plain(path) as file:
        head = file.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if safetensors.is_safetensors(head):
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
    elif packed := next((name for magic, name in _PACKED.items() if head.startswith(magic)), ""):
        what = f"is {packed}; unpack it first"
    elif picture := next((name for magic, name in _OTHERS.items() if head.startswith(magic)), ""):
        what = f"is {picture}"
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
    return keras_h5.read(path)


def _read_zip(path: Path) -> _Read:
    with open_plain(path) as file:
        is_keras = keras_h5.ARCHIVED in open_zip(file).namelist()
    return _read_keras(path) if is_keras else _read_torch(path)


def _read_safetensors(path: Path) -> _Read:
    return "safetensors", *safetensors.read(path)


def _read_index(path: Path) -> _Read:
    return "safetensors", *safetensors.read_index(path)


_READERS = {
    "safetensors": _read_safetensors,
    "index": _read_index,
    "hdf5": _read_keras,
    "zip": _read_zip,
    "pickle": _read_torch,
}
