"""Decoded photos in a file of the cache: written whole, read photo by photo, checked as read first.

An .npy of uint8 [N, size, size, 3], and a .json beside it that says what it was made of, with the
CRC-32 of each photo, and which photos are broken. It is read and not mapped: of a file that others
cut short, or on a disk that fails, a map is a SIGBUS. A stop leaves what is decoded so far in
unfinished_NAME, and the next call takes it from there.
"""

import copy
import hashlib
import io
import math
import os
import threading
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from vtl import processes
from vtl.errors import UserError
from vtl.files import whole_file, write_json
from vtl.untrusted import open_plain, printable, read_json, reading

Decode = Callable[[int], np.ndarray]
"""The pixels uint8 [size, size, 3] of the photo in a row."""

Keep = Callable[[int, np.ndarray], None]
Read = Callable[[np.ndarray], np.ndarray]
"""The pixels uint8 [n, size, size, 3] of the photos in rows [n]."""

_CRC_DIGITS = 8
_times_written: Counter[str] = Counter()
_LAST_WORDS_S = 3.0
"""How long a stop waits to hear what the other processes of a team have decoded."""

MAX_JSON_BYTES_PER_PHOTO = 4096
"""A name of 255 bytes, each of which JSON may write as six, and three numbers."""


class DecodedPhotos:
    """The photos of such a file: uint8 [N, size, size, 3], of which rows are read when asked for.

    Each photo's CRC is checked when it is first read. One that is damaged is decoded again, and
    the file is forgotten, so that the next run makes it anew.

    Attributes:
        crcs: the CRC-32 [N] of each photo's pixels.
        broken: row -> why its photo can't be decoded; its pixels mean nothing.
    """

    def __init__(
        self,
        path: Path,
        file: io.BufferedReader,
        shape: tuple[int, ...],
        crcs: Sequence[int],
        decode: Decode,
        broken: Mapping[int, str],
    ):
        self.filename = path
        self.broken = broken
        self.shape = shape
        self.dtype = np.dtype(np.uint8)
        self._file = file
        weakref.finalize(self, file.close)
        self._start = file.tell()
        self._crcs = crcs
        self.crcs = np.array(crcs, np.uint32)
        self._decode = decode
        self._rows = np.arange(shape[0])
        self._is_checked = np.zeros(shape[0], bool)
        self._is_forgotten = False
        self._lock = threading.Lock()
        self._whole: DecodedPhotos | None = None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def name(self) -> str:
        """What is the same only for the same photos in the same order, prepared the same way."""
        if len(self._rows) == len(self._crcs):
            return self.filename.name
        return f"{self.filename.name} {hashlib.sha256(self._rows.tobytes()).hexdigest()[:16]}"

    def rows(self, rows: np.ndarray) -> "DecodedPhotos":
        """Some of the photos, in a given order."""
        some = copy.copy(self)
        some._whole = self  # which closes the file when it goes
        some._rows = self._rows[rows]
        some.crcs = self.crcs[rows]
        some.shape = (len(rows), *self.shape[1:])
        some.broken = {}
        return some

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
        record = _read_record(path, shape)
        digits = record["crc32"]
        crcs = [int(digits[i : i + _CRC_DIGITS], 16) for i in range(0, len(digits), _CRC_DIGITS)]
        num_bytes = os.fstat(file.fileno()).st_size
        np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0(file)
        is_expected = header == (shape, False, np.uint8) and len(crcs) == shape[0]
        is_whole = num_bytes == file.tell() + math.prod(shape)
        if record["key"] == key and is_expected and is_whole:
            broken = {int(row): str(why) for row, why in record.get("broken", {}).items()}
            if broken.keys() <= set(range(shape[0])):
                return DecodedPhotos(path, file, shape, crcs, decode, broken)
    file.close()
    return None


def _read_record(path: Path, shape: tuple[int, ...]) -> Any:
    max_bytes = (1 + shape[0]) * MAX_JSON_BYTES_PER_PHOTO
    return read_json(path.with_suffix(".json"), max_bytes=max_bytes)


def write_decoded(
    path: Path,
    shape: tuple[int, ...],
    description: dict[str, Any],
    for_each_photo: Callable[[Keep, Read, range], Mapping[int, str]],
    *,
    num_unfinished: int = 0,
    team: Sequence[int] = (0,),
) -> None:
    """Write the file and, beside it, `description` with the checksums.

    `for_each_photo` is given what keeps the pixels of a row, what reads those that are kept, and
    the rows to keep, from any thread and in any order; it returns row -> what is wrong of photos
    that are broken. A stop leaves what is kept so far, unless an earlier one left as many:
    `num_unfinished`. The processes of a `team`, which share the disk, have a part of the rows each,
    and write into one file.
    """
    turn = list(team).index(processes.index())
    rows = range(turn, shape[0], len(team))
    _times_written[path.name] += 1
    name = f"{path.name}/{_times_written[path.name]}/{team[0]}"
    names, reports, ends = (processes.Round(f"{name}/{of}") for of in ("file", "rows", "end"))
    crcs = np.zeros(shape[0], np.uint32)
    is_kept = np.zeros(shape[0], bool)
    lock = threading.Lock()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    start = header.tell()
    with ExitStack() as stack:
        if turn == 0:
            file = stack.enter_context(whole_file(path))
            file.write(header.getvalue())
            file.flush()
            names.tell(Path(file.name).name)
        else:
            (name,) = names.hear(team[:1])
            file = stack.enter_context(path.with_name(name).open("r+b"))

        def keep(row: int, pixels: np.ndarray) -> None:
            crc = zlib.crc32(pixels.data)
            # Not through a memory map: there a full disk is a SIGBUS, here it is an OSError.
            with lock:
                if file.closed:  # the others were stopped
                    return
                file.seek(start + row * pixels.nbytes)
                file.write(pixels.tobytes())
                crcs[row], is_kept[row] = crc, True

        def read(rows: np.ndarray) -> np.ndarray:
            photos = np.empty((len(rows), *shape[1:]), np.uint8)
            for row, photo in zip(rows.tolist(), photos, strict=True):
                with lock:
                    file.seek(start + row * photo.nbytes)
                    content = file.read(photo.nbytes)
                if len(content) != photo.nbytes or zlib.crc32(content) != crcs[row]:
                    raise OSError(f"photo {row} of {path.name} is not what was written there")
                photo.flat = np.frombuffer(content, np.uint8)
            return photos

        def described(**more: Any) -> dict[str, Any]:
            digits = "".join(f"{crc:0{_CRC_DIGITS}x}" for crc in crcs)
            return {**description, "crc32": digits, **more}

        def tell(broken: Mapping[int, str]) -> None:
            file.flush()
            if turn:  # the first reads it, maybe on another machine
                os.fsync(file.fileno())
            reports.tell([crcs[rows].tolist(), is_kept[rows].tolist(), list(broken.items())])

        def hear(within_s: float | None = None) -> dict[int, str]:
            """Complete `crcs` and `is_kept`, and return what is broken, by all of the team."""
            broken: dict[int, str] = {}
            for place, report in enumerate(reports.hear(team, within_s)):
                if report:
                    theirs = range(place, shape[0], len(team))
                    crcs[theirs], is_kept[theirs] = report[:2]
                    broken |= dict(report[2])
            return broken

        try:
            tell(for_each_photo(keep, read, rows))
            if turn:
                ends.hear(team[:1])
                return
            broken = hear()
        except KeyboardInterrupt:
            with lock:
                with suppress(OSError):
                    tell({})
                if turn:
                    raise
                processes.stop_others()
                hear(_LAST_WORDS_S)
                if is_kept.sum() > num_unfinished:
                    file.truncate(start + math.prod(shape))
                    file.close()
                    unfinished = unfinished_of(path)
                    Path(file.name).replace(unfinished)
                    kept = np.packbits(is_kept).tobytes().hex()
                    write_json(unfinished.with_suffix(".json"), described(kept=kept))
            raise
        file.truncate(start + math.prod(shape))
        by_row = {str(row): why for row, why in sorted(broken.items())}
        write_json(path.with_suffix(".json"), described(**{"broken": by_row} if by_row else {}))
    ends.tell(True)
    for left in (unfinished_of(path), unfinished_of(path).with_suffix(".json")):
        left.unlink(missing_ok=True)


def unfinished_of(path: Path) -> Path:
    """Where a stop leaves what is decoded of the file at `path`."""
    return path.with_name(f"unfinished_{path.name}")


def open_unfinished(
    path: Path, key: str, shape: tuple[int, ...], decode: Decode
) -> tuple[DecodedPhotos | None, np.ndarray]:
    """What a stop left of the file at `path`, if anything, and which rows [N] of it are there."""
    unfinished, is_kept = unfinished_of(path), np.zeros(shape[0], bool)
    photos = open_decoded(unfinished, key, shape, decode)
    if photos:
        with suppress(UserError), reading(unfinished):
            record = _read_record(unfinished, shape)
            kept = np.frombuffer(bytes.fromhex(record["kept"]), np.uint8)
            is_kept |= np.unpackbits(kept, count=shape[0]).astype(bool)
    return photos, is_kept
