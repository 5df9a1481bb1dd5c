"""What torch.save wrote, as numpy arrays, read without PyTorch.

There are two layouts, the zip of today and the one before it; both hold a pickle.
"""

import io
import math
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vtl.errors import UserError
from vtl.untrusted import open_plain, printable
from vtl.weights.formats.unpickler import STORAGES, Storage, Tensor, unpickle
from vtl.weights.formats.untrusted import (
    EXPECTED,
    Tensors,
    check_count,
    check_present,
    check_stored,
    open_zip,
)

_MAGIC = 0x1950A86A20F9469CFC6C
_SHARED_BYTES = 1 << 26
"""What views of shared numbers may take as float32, however small their file."""

_MAX_DIMENSIONS = 32
_MAX_DEPTH = 3
"""Of dicts around the state_dict, as in {"checkpoint": {"model": ...}}."""


def read(path: Path) -> Tensors:
    """The tensors of a state_dict, whether bare or in other dicts."""
    with open_plain(path) as file:
        is_zip = file.read(2) == b"PK"
        file.seek(0)
        loaded, data = (_read_zip if is_zip else _read_legacy)(file)
        present = os.fstat(file.fileno()).st_size
    described = _only_state_dict(loaded)
    check_count("tensors", len(described))
    tensors = {name: _view(name, tensor, data) for name, tensor in described.items()}
    # Views of one storage: no network shares more than a few of its tensors.
    numbers = sum(tensor.size for tensor in tensors.values())
    check_present("list of tensors", 4 * numbers, max(4 * present, _SHARED_BYTES))
    return tensors


def _read_zip(file: BinaryIO) -> tuple[Any, dict[Storage, bytes]]:
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
    loaded, storages = unpickle(io.BytesIO(archive.read(pickles[0])))
    data = {storage: archive.read(f"{root}data/{key}") for key, storage in storages.items()}
    for storage in data:
        if len(data[storage]) != storage.nbytes:
            raise UserError(f"{storage} has {len(data[storage])} bytes, expected {storage.nbytes}")
    return loaded, data


def _read_legacy(file: BinaryIO) -> tuple[Any, dict[Storage, bytes]]:
    """Reads magic number, protocol, machine, object, storage keys (all pickles), storages."""
    present = os.fstat(file.fileno()).st_size
    if unpickle(file)[0] != _MAGIC:
        raise UserError(f"is a pickle, but not one of torch.save; {EXPECTED}")
    unpickle(file)
    if not unpickle(file)[0]["little_endian"]:
        raise UserError("was saved on a big-endian machine; save it on a little-endian one")
    loaded, storages = unpickle(file)
    data = {}
    for key in unpickle(file)[0]:
        storage = storages[str(key) if isinstance(key, (str, int)) else ""]
        numel = int.from_bytes(file.read(8), "little")
        check_present(str(storage), file.tell() + storage.nbytes, present)
        if numel != storage.numel:
            raise UserError(f"{storage} has {numel} elements")
        data[storage] = file.read(storage.nbytes)
    return loaded, data


class _Found(NamedTuple):
    """A dict of tensors, how deep it lies, and the keys that lead to it."""

    depth: int
    place: str
    tensors: dict[str, Any]

    @property
    def size(self) -> int:
        """How many tensors."""
        return sum(isinstance(value, Tensor) for value in self.tensors.values())


def _dicts_of_tensors(value: Any, seen: set[int], place: str = "", depth: int = 0) -> list[_Found]:
    """The innermost dicts of tensors; an optimizer keeps its own under numbers, not names."""
    if not isinstance(value, dict) or depth > _MAX_DEPTH or id(value) in seen:
        return []
    seen.add(id(value))
    below = [
        found
        for key, inner in value.items()
        if isinstance(key, str)
        for found in _dicts_of_tensors(inner, seen, f"{place}['{printable(key, 40)}']", depth + 1)
    ]
    found = _Found(depth, place, value)
    return below or ([found] if found.size else [])


def _only_state_dict(loaded: Any) -> dict[str, Any]:
    """The dict of tensors in what was saved, whether bare or in other dicts."""
    every = _dicts_of_tensors(loaded, set())
    if not every:
        raise UserError("holds no dict of tensors; save model.state_dict()")
    # A tenth as many are no second network; a copy further down is an average of the first.
    most = max(found.size for found in every)
    networks = [found for found in every if 10 * found.size > most]
    depth = min(found.depth for found in networks)
    networks = [found for found in networks if found.depth == depth]
    if len(networks) > 1:
        places = ", ".join(f"checkpoint{found.place}" for found in networks[:4])
        raise UserError(f"holds several dicts of tensors: {places}; torch.save the one you want")
    for name, value in networks[0].tensors.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                f"entry '{printable(name, 60)}' is of type {type(value).__name__}, not a tensor"
            )
    return networks[0].tensors


def _view(name: str, tensor: Tensor, data: dict[Storage, bytes]) -> np.ndarray:
    storage, offset, shape, stride = tensor
    if not (
        isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(stride, tuple)
    ):
        raise UserError(f"tensor {name} is described in a way PyTorch doesn't; refused")
    if len(shape) > _MAX_DIMENSIONS or len(stride) != len(shape):
        raise UserError(f"tensor {name} is described in a way PyTorch doesn't; refused")
    if not all(isinstance(n, int) and 0 <= n < 1 << 63 for n in (offset, *shape, *stride)):
        raise UserError(f"tensor {name} has an impossible offset, shape or stride; refused")
    size = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    # A tensor with stride 0 could be of any size on a storage of one number.
    if size and max(size, last + 1) > storage.numel:
        raise UserError(f"tensor {name} reaches beyond its storage of {storage.numel} numbers")
    dtype = STORAGES[storage.type]
    if not size:
        return np.empty(shape, dtype)
    strides = [step * dtype.itemsize for step in stride]
    return np.ndarray(shape, dtype, data[storage], offset * dtype.itemsize, strides)
