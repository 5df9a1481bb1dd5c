"""Photos -> deep features, written as they come: a second call goes on where one stopped."""

import hashlib
import io
import itertools
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import NamedSharding
from tqdm import tqdm

from vtl import processes
from vtl.data import batches
from vtl.data.batches import Images
from vtl.data.splits import ROLES
from vtl.errors import UserError
from vtl.features.ahead import Ahead
from vtl.files import set_aside, write_json
from vtl.schema import count, of_file, record, text
from vtl.untrusted import open_plain, printable, read_json, reading

BATCHES_BETWEEN_SAVES = 16

_DONE = record({"done": count, "sha256": text})
"""What unfinished_ROLE.json says of the .npy beside it: the rows that are there, and their hash."""

_MAX_DONE_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20


def extract(
    feature_step: Callable[[jax.Array], jax.Array],
    photos: Images,
    partial: Path,
    *,
    photos_name: str,
    batch_size: int,
    sharding: NamedSharding,
    weights_sha256: str,
    ahead: Ahead | None = None,
) -> tuple[np.ndarray, int]:
    """photos [N, H, W, 3] -> a memory map of features [N, D], and how many this call computed.

    Resumes from `partial` if it is of photos of that name, and weights, and is undamaged; otherwise
    it begins with what was computed `ahead`, of the same photos in the same batches. Only the first
    of many processes has the features: for the others N is 0.
    """
    shape = (batch_size, *photos.shape[1:])
    width = jax.eval_shape(feature_step, jax.ShapeDtypeStruct(shape, np.uint8)).shape[1]
    made_of = {"photos": photos_name, "weights": weights_sha256, "width": width}
    unfinished = _Unfinished(partial, made_of, len(photos))
    with closing(unfinished):
        first = num_there = unfinished.open()
        progress = tqdm(total=len(photos), initial=first, desc="deep features", unit="photo")
        with progress:
            for rows in ahead.take(width) if ahead and not first else ():
                unfinished.append(rows)
                num_there += len(rows)
                progress.update(len(rows))
            for batch, size in batches.eval_batches(photos, batch_size, sharding, first=num_there):
                unfinished.append(np.asarray(feature_step(batch), "<f4")[:size])
                progress.update(size)
    return unfinished.features(), len(photos) - first


class _Unfinished:
    """The features so far: an .npy, and a .json that says how many rows of it are there.

    Written and not mapped: on a full disk a map is a SIGBUS, and this an OSError. Of many processes
    the first one writes.
    """

    def __init__(self, path: Path, made_of: dict[str, Any], num_photos: int):
        self._array_path, self._done_path = path.with_suffix(".npy"), path.with_suffix(".json")
        self._made_of, self._num_photos, self._width = made_of, num_photos, made_of["width"]
        self._file: io.BufferedRandom | None = None

    @processes.by_first
    def open(self) -> int:
        """Open it to write on, and return how many rows are there."""
        header = _header(self._num_photos, self._width)
        self._done, self._digest = _done(
            self._array_path, self._done_path, self._made_of, header, self._num_photos
        )
        if not self._done:
            for path in (self._done_path, self._array_path):
                _clear(path)
            with self._array_path.open("xb") as new_file:
                new_file.write(header)
            self._digest = hashlib.sha256(header)
        self._file, self._unsaved = self._array_path.open("r+b"), 0
        self._file.seek(len(header) + self._done * self._width * 4)
        self._file.truncate()
        return self._done

    @processes.in_first
    def append(self, rows: np.ndarray) -> None:
        """Write the next rows [n, D]."""
        assert self._file
        content = rows.tobytes()
        self._file.write(content)
        self._digest.update(content)
        self._done, self._unsaved = self._done + len(rows), self._unsaved + 1
        if self._unsaved == BATCHES_BETWEEN_SAVES or self._done == self._num_photos:
            self._file.flush()
            os.fsync(self._file.fileno())
            done = {"done": self._done, "sha256": self._digest.hexdigest()}
            write_json(self._done_path, self._made_of | done)
            self._unsaved = 0

    def close(self) -> None:
        """Close its file."""
        if self._file:
            self._file.close()

    def features(self) -> np.ndarray:
        """A memory map of the rows [N, D], once all are there."""
        if not processes.is_first():
            return np.empty((0, self._width), np.float32)
        return np.load(self._array_path, mmap_mode="r")


def _header(num_photos: int, width: int) -> bytes:
    """That of the .npy file of so many features."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (num_photos, width)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def _done(
    array_path: Path, done_path: Path, made_of: dict[str, Any], header: bytes, num_photos: int
) -> tuple[int, Any]:
    """How many rows are there of what is `made_of` this, and the hash so far of their file.

    None if it is damaged, which a warning says, or has other photos or weights.
    """
    digest = hashlib.sha256()
    if not os.path.lexists(done_path):
        return 0, digest
    try:
        with of_file(done_path):
            found = read_json(done_path, max_bytes=_MAX_DONE_BYTES, inside=done_path.parent)
            _DONE(found, "")
            if found["done"] > num_photos:
                raise UserError(f"'done' is {found['done']:,} of {num_photos:,} photos")
        if not found.items() >= made_of.items():
            return 0, digest
        left = len(header) + found["done"] * made_of["width"] * 4
        with open_plain(array_path, inside=array_path.parent) as file, reading(array_path):
            while left and (content := file.read(min(left, _PIECE_BYTES))):
                digest.update(content)
                left -= len(content)
        if left or digest.hexdigest() != found["sha256"]:
            raise UserError(f"{printable(array_path)} is not what was written there")
    except UserError as error:
        logging.warning("%s: all of it is computed again", error)
        return 0, digest
    return found["done"], digest


def _clear(path: Path) -> None:
    """Make way for a file; what no run of vtl left there, such as a directory, is set aside."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        set_aside(path, path.name, path.parent)


def is_begun(partial: Path) -> bool:
    """Whether `extract` may have something to go on from."""
    return os.path.lexists(partial.with_suffix(".json"))


def remove_unfinished(workdir: Path) -> None:
    """Remove what `extract` left in `workdir` of every split, once it is written elsewhere."""
    for role, suffix in itertools.product(ROLES, (".npy", ".json")):
        path = workdir / f"unfinished_{role}{suffix}"
        if path.is_file():
            path.unlink()
