"""Decoded photos in a file of the cache: written whole, read photo by photo, checked as read first.

An .npy of uint8 [N, size, size, 3], and a .json beside it that says what it was made of, with the
CRC-32 of each photo. It is read and not mapped: of a file that others cut short, or on a disk that
fails, a map is a SIGBUS.
"""

import io
import math
import os
import threading
import weakref
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from vtl.errors import UserError
from vtl.files import whole_file, write_json
from vtl.untrusted import open_plain, printable, read_json, reading

Decode = Callable[[int], np.ndarray]
"""The pixels uint8 [size, size, 3] of the photo in a row."""

_CRC_DIGITS = 8
MAX_JSON_BYTES_PER_PHOTO = 4096
"""A name of 255 bytes, each of which JSON may write as six, and three numbers."""


class DecodedPhotos:
    """The photos of such a file: uint8 [N, size, size, 3], of which rows are read when asked for.

    Each photo's CRC is checked when it is first read. One that is damaged is decoded again, and
    the file is forgotten, so that the next run makes it anew.
    """

    def __init__(
        self,
        path: Path,
        file: io.BufferedReader,
        shape: tuple[int, ...],
        crcs: Sequence[int],
        decode: Decode,
    ):
        self.filename = path
        self.shape = shape
        self.dtype = np.dtype(np.uint8)
        self._file = file
        weakref.finalize(self, file.close)
        self._start = file.tell()
        self._crcs = crcs
        self._decode = decode
        self._rows = np.arange(shape[0])
        self._is_checked = np.zeros(shape[0], bool)
        self._is_forgotten = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        indices = self._rows[rows]
        photos = np.empty((*indices.shape, *self.shape[1:]), np.uint8)
        for row, photo in zip(indices.flat, photos.reshape(-1, *self.shape[1:]), strict=True):
            self._read(int(row), photo)
        return photos

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def _read(self, row: int, photo: np.ndarray) -> None:
        """Read the photo of a row into the array `photo`."""
        is_whole = False
        with self._lock, suppress(OSError):
            self._file.raw.seek(self._start + row * photo.nbytes, os.SEEK_SET)
            is_whole = self._file.raw.readinto(photo.data) == photo.nbytes
        if is_whole and not self._is_checked[row]:
            is_whole = self._is_checked[row] = zlib.crc32(photo.data) == self._crcs[row]
        if not is_whole:
            self._read_again(row, photo)

    def _read_again(self, row: int, photo: np.ndarray) -> None:
        if not self._is_forgotten:
            self._is_forgotten = True
            logging.warning(
                "%s is damaged: this run decodes the damaged photos again, and the next run all",
                printable(self.filename),
            )
            with suppress(OSError):
                self.filename.with_suffix(".json").unlink()
        pixels = self._decode(row)
        # If only the recorded checksum is damaged, the pixels that were read are right.
        if zlib.crc32(pixels.data) != self._crcs[row] and not np.array_equal(pixels, photo):
            raise UserError(
                f"{printable(self.filename)} is damaged, and photo {row} was changed since it was "
                "decoded: start again, and all photos are decoded anew"
            )
        photo[:] = pixels


def open_decoded(
    path: Path, key: str, shape: tuple[int, ...], decode: Decode
) -> DecodedPhotos | None:
    """The decoded photos at `path`; None if they are missing or damaged.

    Raises:
        UserError: what is there is no plain file.
    """
    record_path = path.with_suffix(".json")
    if not os.path.lexists(path) or not record_path.is_file():
        return None
    file = open_plain(path)
    with suppress(UserError), reading(path):
        record = read_json(record_path, max_bytes=(1 + shape[0]) * MAX_JSON_BYTES_PER_PHOTO)
        digits = record["crc32"]
        crcs = [int(digits[i : i + _CRC_DIGITS], 16) for i in range(0, len(digits), _CRC_DIGITS)]
        num_bytes = os.fstat(file.fileno()).st_size
        np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0(file)
        is_expected = header == (shape, False, np.uint8) and len(crcs) == shape[0]
        is_whole = num_bytes == file.tell() + math.prod(shape)
        if record["key"] == key and is_expected and is_whole:
            return DecodedPhotos(path, file, shape, crcs, decode)
    file.close()
    return None


def write_decoded(
    path: Path,
    shape: tuple[int, ...],
    description: dict[str, Any],
    for_each_photo: Callable[[Callable[[int, np.ndarray], None]], None],
) -> None:
    """Write the file and, beside it, `description` with the checksums.

    `for_each_photo` is given what keeps the pixels of a row, and calls it for every row, from any
    thread and in any order.
    """
    crcs = np.zeros(shape[0], np.uint32)
    lock = threading.Lock()
    with whole_file(path) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()

        def keep(row: int, pixels: np.ndarray) -> None:
            crcs[row] = zlib.crc32(pixels.data)
            # Not through a memory map: there a full disk is a SIGBUS, here it is an OSError.
            with lock:
                file.seek(start + row * pixels.nbytes)
                file.write(pixels.tobytes())

        for_each_photo(keep)
        digits = "".join(f"{crc:0{_CRC_DIGITS}x}" for crc in crcs)
        write_json(path.with_suffix(".json"), {**description, "crc32": digits})
