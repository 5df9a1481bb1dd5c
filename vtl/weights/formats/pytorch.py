"""What torch.save wrote, as numpy arrays, read without PyTorch.

Both layouts, the zip of today and the one before it, hold a pickle, and a pickle is a program: the
unpickler here admits tensors and nothing else.
"""

import io
import math
import os
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from vtl.errors import UserError
from vtl.weights.formats.untrusted import EXPECTED, Tensors, check_present, check_stored, open_zip

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


class _OrderedDict(dict[str, Any]):
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
        if re.match(r"(torch\.nn|torchvision|timm|transformers)\.", asked):
            raise UserError(
                f"is a whole module (asks for {asked}); save model.state_dict() instead"
            )
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


def read(path: Path) -> Tensors:
    """The tensors of a state_dict, whether bare or one dict down."""
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
        file.seek(0)
        loaded, data = (_read_zip if is_zip else _read_legacy)(file)
    tensors = _only_state_dict(loaded)
    return {name: _view(name, tensor, data) for name, tensor in tensors.items()}


def _read_zip(file: BinaryIO) -> tuple[Any, dict[_Storage, bytes]]:
    archive = open_zip(file)
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError("is TorchScript, a program; save the state_dict() of the module instead")
    pickles = [name for name in names if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
    if len(pickles) != 1:
        raise UserError(f"is a zip, but not one of torch.save; {EXPECTED}")
    check_stored(archive, file)
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise UserError("was saved on a big-endian machine; save it on a little-endian one")
    loaded, storages = _unpickle(io.BytesIO(archive.read(pickles[0])))
    data = {storage: archive.read(f"{root}data/{key}") for key, storage in storages.items()}
    for storage in data:
        if len(data[storage]) != storage.nbytes:
            raise UserError(f"{storage} has {len(data[storage])} bytes, expected {storage.nbytes}")
    return loaded, data


def _read_legacy(file: BinaryIO) -> tuple[Any, dict[_Storage, bytes]]:
    """Reads magic number, protocol, machine, object, storage keys (all pickles), storages."""
    present = os.fstat(file.fileno()).st_size
    if _unpickle(file)[0] != _MAGIC:
        raise UserError(f"is a pickle, but not one of torch.save; {EXPECTED}")
    _unpickle(file)
    if not _unpickle(file)[0]["little_endian"]:
        raise UserError("was saved on a big-endian machine; save it on a little-endian one")
    loaded, storages = _unpickle(file)
    data = {}
    for key in _unpickle(file)[0]:
        storage = storages[key]
        numel = int.from_bytes(file.read(8), "little")
        check_present(str(storage), file.tell() + storage.nbytes, present)
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
    return found


def _view(name: str, tensor: _Tensor, data: dict[_Storage, bytes]) -> np.ndarray:
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
    dtype = _STORAGES[storage.type]
    if not size:
        return np.empty(shape, dtype)
    strides = [step * dtype.itemsize for step in stride]
    return np.ndarray(shape, dtype, data[storage], offset * dtype.itemsize, strides)
