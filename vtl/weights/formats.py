"""Weight files as flat dicts of numpy arrays, read without PyTorch, Keras or TensorFlow.

A weight file comes from the internet, so nothing in it is trusted: none of its code runs, no other
file is opened on its word, and no size is believed before it is held against the file's own.
"""

import io
import itertools
import json
import math
import os
import pickle
import pickletools
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import ml_dtypes
import numpy as np
from safetensors import safe_open

from vtl.errors import UserError

_EXPECTED = "expected a safetensors, PyTorch .pth or Keras legacy .h5 file"

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class WeightsFile:
    """What a weight file holds; `format` is "safetensors", "torch" or "keras_legacy_h5"."""

    path: Path
    format: str
    tensors: Tensors
    metadata: dict[str, str]


def read(path: str | Path) -> WeightsFile:
    """Reads a weight file, recognised by its content and never by its extension.

    Tensors keep their names, except that Keras' ":0", the "module." of PyTorch's DataParallel and
    one dict around all ({"state_dict": ...}) are taken off. float16 and bfloat16 come out as
    float32, every other type as it is; arrays may be read-only views.
    Raises UserError for a file that isn't one of weights, is incomplete, or wants code to be run.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "there is no such file"
        raise UserError(f"{path}: {what}; {_EXPECTED}")
    try:
        with path.open("rb") as file:
            name = _recognise(file.read(512))
        tensors, metadata = _READERS[name](path)
    except UserError as error:
        reason = str(error)
    except Exception as error:  # hostile bytes make the libraries below raise nearly anything
        reason = f"can't be read, damaged or incomplete ({type(error).__name__}: {error})"
    else:
        return WeightsFile(path, name, tensors, metadata)
    # The reason may quote the file, which may hold newlines and terminal escapes.
    raise UserError(f"{path}: {re.sub('[^ -~]+', ' ', reason)[:500]}")


def _recognise(head: bytes) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "keras_legacy_h5"
    if head[8:9] == b"{":
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return "torch"
    if not head:
        what = "is empty"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml")):
        what = "is a web page and not the file that was asked for"
    elif text.startswith(b"version https://git-lfs"):
        what = "is a Git LFS pointer to the real file; run git lfs pull"
    elif head[257:262] == b"ustar":
        what = "is a tar, which PyTorch wrote until 2017; torch.load and torch.save it once more"
    else:
        what = f"begins with {head[:8]!r}, which no known format does"
    raise UserError(f"{what}; {_EXPECTED}")


def _widen(array: np.ndarray) -> np.ndarray:
    """The array in native byte order, half precision as float32; UserError if it isn't numbers."""
    if array.dtype in (np.float16, ml_dtypes.bfloat16):
        return array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise UserError(f"holds values of type {array.dtype}; expected numbers")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_present(what: str, promised: int, present: int) -> None:
    if promised > present:
        raise UserError(
            f"looks truncated: {what} promises {promised} bytes, file has {present}; fetch it again"
        )


# safetensors


def _read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    present = path.stat().st_size
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        _check_present("header", start, present)
        header = json.loads(file.read(start - 8))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    _check_present("header", start + max(ends, default=0), present)
    with safe_open(path, framework="numpy") as opened:
        tensors = {name: _widen(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
        return tensors, opened.metadata() or {}


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


# PyTorch

_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_PICKLE_BYTES = 1 << 21  # a ResNet-50's takes some 50 kB; the tensors lie outside of it
_MAX_TUPLES = 20_000  # four a tensor; nested much deeper, hashing them overflows the C stack
_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class _Storage(NamedTuple):
    type: str
    key: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * _STORAGES[self.type].itemsize


class _Tensor(NamedTuple):
    """A tensor as the pickle describes it; _view checks that it makes sense."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any


class _OrderedDict(dict):
    def __setstate__(self, state: Any) -> None:
        """Drops the `_metadata` attribute that Module.state_dict hangs on its dict."""


class _Unpickler(pickle.Unpickler):
    """Turns a pickle into plain values, _Storage and _Tensor, and refuses to do more."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        # Functions made anew for each call: a pickle can set attributes on what it is given. A
        # tensor whose sign or conjugation is still due has a seventh argument: one too many.
        admitted: dict[str, Any] = {
            "collections.OrderedDict": lambda items=(): _OrderedDict(items),
            "torch._utils._rebuild_tensor": lambda *described: _Tensor(*described),
            "torch._utils._rebuild_tensor_v2": lambda *described: _Tensor(*described[:-2]),
            "torch._utils._rebuild_parameter": lambda tensor, requires_grad, hooks: tensor,
            **{f"torch.{storage}": storage for storage in _STORAGES},
        }
        asked = f"{module}.{name}"
        if asked not in admitted:
            raise UserError(
                f"asks for {asked}; a weights file may hold tensors and nothing else; refused"
            )
        return admitted[asked]

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            # The legacy layout ends on None, where it once kept views of storages.
            case ("storage", str(type_), str(key), _, int(numel), *view) if (
                type_ in _STORAGES and numel >= 0 and view in ([], [None])
            ):
                storage = _Storage(type_, key, numel)
                if self.storages.setdefault(key, storage) == storage:
                    return storage
        raise UserError("describes a storage in a way PyTorch doesn't; refused")


def _unpickle(file: BinaryIO) -> tuple[Any, dict[str, _Storage]]:
    """The next pickle of the file and the storages it names; the file is left behind it."""
    start = file.tell()
    tuples = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        tuples += opcode.name.startswith("TUPLE")
        if file.tell() - start > _MAX_PICKLE_BYTES or tuples > _MAX_TUPLES:
            raise UserError("holds a pickle larger than any list of tensors; refused")
        # The unpickler makes room for as many memos as the highest index says.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > count:
            raise UserError("holds a pickle that asks for more memory than it needs; refused")
    size = file.tell() - start
    file.seek(start)
    unpickler = _Unpickler(io.BytesIO(file.read(size)))
    return unpickler.load(), unpickler.storages


def _read_torch(path: Path) -> tuple[Tensors, dict[str, str]]:
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
        file.seek(0)
        loaded, data = (_read_torch_zip if is_zip else _read_torch_legacy)(file)
    values = {s: _widen(np.frombuffer(data[s], _STORAGES[s.type])) for s in data}
    tensors = _only_state_dict(loaded)
    return {name: _view(name, tensor, values) for name, tensor in tensors.items()}, {}


def _read_torch_zip(file: BinaryIO) -> tuple[Any, dict[_Storage, bytes]]:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise UserError(
            "looks truncated: the zip directory at its end is missing; fetch it again"
        ) from error
    names = archive.namelist()
    if "model.weights.h5" in names:
        raise UserError('is a .keras archive of Keras 3; write it with model.save("NAME.h5")')
    pickles = [name for name in names if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
    if len(pickles) != 1:
        raise UserError(f"is a zip, but not one of torch.save; {_EXPECTED}")
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise UserError("is a compressed zip, which torch.save never writes; refused")
    promised = sum(member.file_size for member in archive.infolist())
    _check_present("zip directory", promised, os.fstat(file.fileno()).st_size)
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise UserError("was saved on a big-endian machine; save it on a little-endian one")
    loaded, storages = _unpickle(io.BytesIO(archive.read(pickles[0])))
    data = {storage: archive.read(f"{root}data/{key}") for key, storage in storages.items()}
    for storage in data:
        if len(data[storage]) != storage.nbytes:
            raise UserError(f"{storage} has {len(data[storage])} bytes, expected {storage.nbytes}")
    return loaded, data


def _read_torch_legacy(file: BinaryIO) -> tuple[Any, dict[_Storage, bytes]]:
    """Reads magic number, protocol, machine, object, storage keys (all pickles), storages."""
    present = os.fstat(file.fileno()).st_size
    if _unpickle(file)[0] != _MAGIC:
        raise UserError(f"is a pickle, but not one of torch.save; {_EXPECTED}")
    _unpickle(file)
    if not _unpickle(file)[0]["little_endian"]:
        raise UserError("was saved on a big-endian machine; save it on a little-endian one")
    loaded, storages = _unpickle(file)
    data = {}
    for key in _unpickle(file)[0]:
        storage = storages[key]
        numel = int.from_bytes(file.read(8), "little")
        _check_present(str(storage), file.tell() + storage.nbytes, present)
        if numel != storage.numel:
            raise UserError(f"{storage} has {numel} elements")
        data[storage] = file.read(storage.nbytes)
    return loaded, data


def _only_state_dict(loaded: Any) -> dict[str, Any]:
    """The dict of tensors in what was saved, whether bare or one level down."""

    def holds_tensors(value: Any) -> bool:
        return isinstance(value, dict) and any(isinstance(v, _Tensor) for v in value.values())

    outer = loaded if isinstance(loaded, dict) else {}
    inner = {key: value for key, value in outer.items() if holds_tensors(value)}
    if len(inner) > 1:
        raise UserError(f"holds several dicts of tensors, {list(inner)}; save the one you want")
    found = next(iter(inner.values()), loaded)
    if not holds_tensors(found):
        raise UserError("holds no dict of tensors; save model.state_dict()")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise UserError(f"entry {name!r} is of type {type(value).__name__}, not a tensor")
    prefix = "module." if all(name.startswith("module.") for name in found) else ""
    return {name.removeprefix(prefix): value for name, value in found.items()}


def _view(name: str, tensor: _Tensor, values: dict[_Storage, np.ndarray]) -> np.ndarray:
    storage, offset, shape, stride = tensor
    if not (
        isinstance(storage, _Storage) and isinstance(shape, tuple) and isinstance(stride, tuple)
    ):
        raise UserError(f"tensor {name} is described in a way PyTorch doesn't; refused")
    if not all(isinstance(n, int) and n >= 0 for n in (offset, *shape, *stride)):
        raise UserError(f"tensor {name} has a negative offset, shape or stride; refused")
    size = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    # A tensor with stride 0 could be of any size on a storage of one number.
    if size and max(size, last + 1) > storage.numel:
        raise UserError(f"tensor {name} reaches beyond its storage of {storage.numel} numbers")
    flat = values[storage][offset:]
    if not size:
        return np.empty(shape, flat.dtype)
    return np.ndarray(shape, flat.dtype, flat, strides=[n * flat.itemsize for n in stride])


# Keras


def _read_keras_legacy_h5(path: Path) -> tuple[Tensors, dict[str, str]]:
    tensors: Tensors = {}
    promised = 0
    with h5py.File(path, "r") as file:
        root = _child(file, "model_weights") if _has(file, "model_weights") else file
        layers = _names(root, "layer_names")
        if not layers:
            what = "Keras 3's .weights.h5" if _has(root, "layers") else "no known layout"
            raise UserError(f'is HDF5 of {what}; expected what model.save("NAME.h5") writes')
        if _has(root, "top_level_model_weights"):
            layers.append("top_level_model_weights")
        for layer in layers:
            group = _child(root, layer)
            for weight in _names(group, "weight_names"):
                dataset = _child(group, weight)
                if not _is_plain(dataset):
                    raise UserError(
                        f"{weight} isn't a plain array of numbers in this file; refused"
                    )
                promised += dataset.nbytes
                _check_present("list of weights", promised, path.stat().st_size)
                name = weight.removesuffix(":0")
                if name in tensors:
                    raise UserError(f"has two weights named {name}")
                tensors[name] = _widen(np.asarray(dataset[()]))
    return tensors, {}


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
        and dataset.dtype.kind in "fiub"
    )


_READERS = {
    "safetensors": _read_safetensors,
    "torch": _read_torch,
    "keras_legacy_h5": _read_keras_legacy_h5,
}
