"""What torch.save wrote, as numpy arrays, read without PyTorch.

There are two layouts, the zip of today and the one before it; both hold a pickle.
"""

import io
import math
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vtl.errors import UserError
from vtl.untrusted import open_plain, printable
from vtl.weights.formats.contents import Contents, Entry, is_half
from vtl.weights.formats.unpickler import (
    STORAGES,
    Inert,
    Storage,
    Tensor,
    complaint,
    first_names,
    unpickle,
)
from vtl.weights.formats.untrusted import (
    EXPECTED,
    Tensors,
    check_present,
    check_stored,
    open_zip,
)

_MAGIC = 0x1950A86A20F9469CFC6C
_SHARED_BYTES = 1 << 26
"""What views of shared numbers may take as float32, however small their file."""

_MAX_DIMENSIONS = 32
_MAX_DEPTH = 5
"""Of dicts around the state_dict: VISSL's lies in four."""

_MAX_KEY = 100
_SMALLEST_NETWORK = 10
"""Tensors: fewer beside a whole module are none."""

_JAX = re.compile(r"(jax|jaxlib|haiku|flax|optax|dill|byol)\b")


class _Saved(NamedTuple):
    """What torch.save was given, as its pickle describes it, and the numbers beside the pickle."""

    value: Any
    data: dict[Storage, bytes]
    skipped: tuple[str, ...]


def survey(path: Path) -> Contents:
    """The dicts of tensors that torch.save was given, whether bare or in other dicts."""
    with open_plain(path) as file:
        is_zip = file.read(2) == b"PK"
        file.seek(0)
        saved = (_read_zip if is_zip else _read_legacy)(file)
        present = os.fstat(file.fileno()).st_size
    found = _found(saved.value)
    most = max(map(len, (inner.tensors for inner in found.dicts)), default=0)
    if most < _SMALLEST_NETWORK and (reason := complaint(saved.skipped)):
        raise UserError(reason)
    if not found.dicts:
        raise UserError(_nothing(found, saved.skipped))
    entries: dict[str, Entry] = {}
    for inner in found.dicts:
        entries.setdefault(inner.key, _entry(inner, saved.data, present))
    keys = saved.value if isinstance(saved.value, dict) else ()
    names = tuple(key for key in keys if isinstance(key, str))
    return Contents(path, "torch", entries, {}, names, found.lists, saved.skipped)


def _nothing(found: "_Found", skipped: tuple[str, ...]) -> str:
    """What to say of a file without a dict of tensors."""
    if found.lists:
        key, count = next(iter(found.lists.items()))
        where = f" ({printable(key, 60)})" if key else ""
        return (
            f"holds {count} tensors as a list{where}, so that nothing says which is which; save "
            "model.state_dict()"
        )
    asks = f" (asks for {skipped[0]}; only tensors and plain values are read)" if skipped else ""
    return f"holds no dict of tensors{asks}; save model.state_dict()"


def _read_zip(file: BinaryIO) -> _Saved:
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
    loaded, storages, skipped = unpickle(io.BytesIO(archive.read(pickles[0])))
    data = {storage: archive.read(f"{root}data/{key}") for key, storage in storages.items()}
    for storage in data:
        if len(data[storage]) != storage.nbytes:
            raise UserError(f"{storage} has {len(data[storage])} bytes, expected {storage.nbytes}")
    return _Saved(loaded, data, skipped)


def _read_legacy(file: BinaryIO) -> _Saved:
    """Reads magic number, protocol, machine, object, storage keys (all pickles), storages."""
    present = os.fstat(file.fileno()).st_size
    _check_is_torch(file)
    if unpickle(file).value != _MAGIC:
        raise UserError(f"is a pickle, but not one of torch.save; {EXPECTED}")
    unpickle(file)
    if not unpickle(file).value["little_endian"]:
        raise UserError("was saved on a big-endian machine; save it on a little-endian one")
    loaded, storages, skipped = unpickle(file)
    data = {}
    for key in unpickle(file).value:
        storage = storages[str(key) if isinstance(key, (str, int)) else ""]
        numel = int.from_bytes(file.read(8), "little")
        check_present(str(storage), file.tell() + storage.nbytes, present)
        if numel != storage.numel:
            raise UserError(f"{storage} has {numel} elements")
        data[storage] = file.read(storage.nbytes)
    return _Saved(loaded, data, skipped)


def _check_is_torch(file: BinaryIO) -> None:
    """UserError for a pickle of another library, which begins with more than a magic number."""
    names = first_names(file)
    file.seek(0)
    if any(map(_JAX.match, names)):
        raise UserError(
            "is a pickle of JAX, as DeepMind's BYOL is, under names of its own; torch.save it "
            "under torchvision's"
        )
    if names:
        raise UserError(
            f"is a pickle, but not one of torch.save (asks for {names[0].replace(' ', '.')}); "
            f"{EXPECTED}"
        )


class _Inner(NamedTuple):
    """A dict that holds tensors, and the keys that lead to it."""

    key: str
    values: dict[Any, Any]
    tensors: dict[str, Tensor]


class _Found(NamedTuple):
    """All dicts and lists of tensors."""

    dicts: list[_Inner]
    lists: dict[str, int]


def _found(loaded: Any) -> _Found:
    """The dicts of tensors, in the file's order; an optimizer keeps its own under numbers, not
    names. A dict around others is one if it holds half as many tensors as each of them.
    """
    found = _Found([], {})
    seen: set[int] = set()

    def most_in(value: Any, key: str, depth: int) -> int:
        """The most tensors that a dict at or below `value` holds."""
        if not isinstance(value, dict | list) or depth > _MAX_DEPTH or id(value) in seen:
            return 0
        seen.add(id(value))
        if isinstance(value, list):
            if count := sum(isinstance(item, Tensor) for item in value):
                found.lists.setdefault(key, count)
            return 0
        place = len(found.dicts)
        below = 0
        for name, inner in value.items():
            if isinstance(name, str) and len(name) <= _MAX_KEY:
                below = max(below, most_in(inner, f"{key}.{name}" if key else name, depth + 1))
        tensors = {
            name: inner
            for name, inner in value.items()
            if isinstance(name, str) and isinstance(inner, Tensor)
        }
        if 2 * len(tensors) > below:
            found.dicts.insert(place, _Inner(key, value, tensors))
        return max(below, len(tensors))

    most_in(loaded, "", 0)
    return found


def _entry(inner: _Inner, data: dict[Storage, bytes], present: int) -> Entry:
    """A dict of tensors from a file of `present` bytes."""

    def load(names: Collection[str]) -> Tensors:
        tensors = {name: _view(name, inner.tensors[name], data) for name in names}
        # Views of one storage: no network shares more than a few of its tensors.
        numbers = sum(tensor.size for tensor in tensors.values())
        check_present("list of tensors", 4 * numbers, max(4 * present, _SHARED_BYTES))
        # They may overlap, and each is widened by itself.
        halves = sum(tensor.nbytes for tensor in tensors.values() if is_half(tensor))
        check_present("list of half-precision tensors", halves, present)
        return tensors

    others = {
        name if isinstance(name, str) else _shown(name): _kind(value)
        for name, value in inner.values.items()
        if name not in inner.tensors
    }
    return Entry(tuple(inner.tensors), others, load)


def _shown(name: Any) -> str:
    """A name that is no text."""
    part = name[:40] if isinstance(name, bytes) else name if isinstance(name, int | float) else ""
    return f"{type(name).__name__} {part!r}"


def _kind(value: Any) -> str:
    """What to call a value that is no tensor, or one without a name."""
    if isinstance(value, Tensor):
        return "without a name"
    return value.name if isinstance(value, Inert) else f"of type {type(value).__name__}"


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
