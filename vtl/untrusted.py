"""Reading what others wrote: plain files only, no size believed before it is checked, and any
failure of a parser one line for the person at the keyboard.
"""

import hashlib
import io
import json
import os
import stat
import struct
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vtl.errors import UserError, escaped

MAX_JSON_BYTES = 1 << 26
"""Of a JSON file: results.json of a study with dozens of runs takes a hundredth of it."""

MAX_NPY_HEADER_BYTES = 10_000
"""NumPy's own bound on the header of an array that isn't trusted."""

_PIECE_BYTES = 1 << 20

MAX_ARRAYS = 1000
"""Of an .npz: the curves of the ReLU study, which has the most, are dozens."""

MAX_RATIO, ALWAYS_UNPACKED_BYTES = 32, 1 << 26
"""What compressed arrays may take unpacked: features, scores and digits take 1 to 10 times as much,
a bomb 1,000 times; a small file may take more than its share."""

_NPY_MAGIC = b"\x93NUMPY"

_ZIP_END = struct.Struct("<4s4xHHLLH")
"""The last bytes of a zip file without a comment; the third value is the number of members."""

_MANY_MEMBERS = 0xFFFF
"""Their number stands elsewhere."""

_KINDS = {
    stat.S_ISDIR: "a directory",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def printable(text: object, limit: int = 200) -> str:
    """Foreign text for a terminal: one line, at most `limit` characters, no control characters."""
    line = escaped(" ".join(str(text).split()))
    if len(line) <= limit:
        return line
    tail = limit // 3
    return f"{line[: limit - tail - 1]}…{line[-tail:]}"


def no_formula(text: str) -> str:
    """A cell of a table that no spreadsheet computes: `'=1+1` instead of `=1+1`."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def reason_of(error: BaseException) -> str:
    """What an exception says, as one short line."""
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return printable(error.strerror)
    return printable(error) or type(error).__name__


@contextmanager
def reading(path: object, remedy: str = "") -> Iterator[None]:
    """Turn whatever a parser raises on a bad file into a UserError of one line.

    A UserError from within stays as it is, and so do the signals that stop a run.
    """
    try:
        yield
    except UserError:
        raise
    # Hostile bytes make parsers raise nearly anything.
    except Exception as error:
        more = f"; {remedy}" if remedy else ""
        raise UserError(f"{printable(path)} can't be read: {reason_of(error)}{more}") from error


def open_plain(
    path: str | Path, *, max_bytes: int | None = None, inside: Path | None = None
) -> io.BufferedReader:
    """Open a plain file to read: no pipe or device, which would hang or never end.

    `inside` is a directory that a link must not lead out of.

    Raises:
        UserError: the file is missing, may not be read, is no plain file, is larger than
            `max_bytes`, or lies elsewhere.
    """
    name = printable(path)
    if inside is not None and not _lies_in(path, inside):
        raise UserError(f"{name} is a link that leads out of {printable(inside)}: refused")
    try:
        # Non-blocking: it may be a pipe that nobody writes to.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        raise UserError(f"{name} can't be opened: {reason_of(error)}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = next((kind for is_kind, kind in _KINDS.items() if is_kind(status.st_mode)), "none")
        raise UserError(f"{name} is {kind} and not a plain file")
    if max_bytes is not None and status.st_size > max_bytes:
        os.close(descriptor)
        raise UserError(f"{name} has {status.st_size:,} bytes, and at most {max_bytes:,} can be")
    return os.fdopen(descriptor, "rb")


def _lies_in(path: str | Path, directory: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory))


def plain_sha256(
    path: str | Path, *, max_bytes: int | None = None, inside: Path | None = None
) -> str:
    """The hexadecimal sha256 of a plain file; UserError as `open_plain`."""
    with open_plain(path, max_bytes=max_bytes, inside=inside) as file, reading(path):
        digest = hashlib.sha256()
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
        return digest.hexdigest()


def read_json(
    path: str | Path, *, max_bytes: int = MAX_JSON_BYTES, inside: Path | None = None
) -> Any:
    """The value in a JSON file; UserError if the file is not JSON. `schema` checks the value."""
    with open_plain(path, max_bytes=max_bytes, inside=inside) as file, reading(path):
        return json.loads(file.read())


class ArrayHeader(NamedTuple):
    """What an .npz says of one of its arrays."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """The bytes of the array, as Python's integers have them, which don't overflow."""
        size = self.dtype.itemsize
        for length in self.shape:
            size *= length
        return size


def npz_headers(file: BinaryIO) -> dict[str, ArrayHeader]:
    """Each array's header by name, read without its content.

    Raises:
        UserError: a member is no array of plain values, is there twice, or has another size than
            its header says.
    """
    headers: dict[str, ArrayHeader] = {}
    with zipfile.ZipFile(file) as archive:
        num_members = len(archive.infolist())
        if num_members > MAX_ARRAYS:
            raise UserError(f"it holds {num_members:,} arrays")
        _check_all_are_listed(file, num_members)
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            shown = printable(name, 60)
            if name in headers:
                raise UserError(f"it holds {shown} twice")
            with archive.open(member) as content:
                version = np.lib.format.read_magic(content)
                read_header = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }[version]
                shape, _, dtype = read_header(content, max_header_size=MAX_NPY_HEADER_BYTES)
                header = ArrayHeader(shape, dtype)
                if dtype.hasobject:
                    raise UserError(f"{shown} holds Python objects, which are not read")
                if not dtype.itemsize:
                    raise UserError(f"{shown} holds values of no size")
                if min(shape, default=0) < 0 or content.tell() + header.nbytes != member.file_size:
                    raise UserError(f"{shown} is not of the size that its header says")
            headers[name] = header
    return headers


def _check_all_are_listed(file: BinaryIO, num_members: int) -> None:
    """One flipped bit in the length of an entry hides those after it, which zipfile doesn't see."""
    file.seek(-_ZIP_END.size, os.SEEK_END)
    magic, _, written, *_ = _ZIP_END.unpack(file.read(_ZIP_END.size))
    if magic == b"PK\5\6" and written not in (num_members, _MANY_MEMBERS):
        raise UserError(f"it lists {num_members} arrays of {written}")


def unpacked_bound(packed_bytes: int) -> int:
    """The most bytes that what is packed into so many may take: it follows from them."""
    return max(ALWAYS_UNPACKED_BYTES, MAX_RATIO * packed_bytes)


def read_npz(
    path: str | Path,
    *,
    names: Collection[str] | None = None,
    max_bytes: int | None = None,
    inside: Path | None = None,
) -> dict[str, np.ndarray]:
    """All arrays of an .npz; nothing is unpacked before all sizes are checked, no code runs.

    Of `names`, if they are given, those that are there. `max_bytes` is the most that all arrays may
    take together, unpacked; without it that follows from the size of the file.

    Raises:
        UserError: it is missing, damaged, no .npz of plain arrays, or too large.
    """
    with open_plain(path, inside=inside) as file, reading(path):
        if file.read(len(_NPY_MAGIC)) == _NPY_MAGIC:
            raise UserError(f"{printable(path)} holds a single array and is no .npz")
        try:
            headers = npz_headers(file)
        except UserError as error:
            raise UserError(f"{printable(path)} can't be read: {error}") from None
        if max_bytes is None:
            max_bytes = unpacked_bound(os.fstat(file.fileno()).st_size)
        total = sum(header.nbytes for header in headers.values())
        if total > max_bytes:
            raise UserError(
                f"{printable(path)} would take {total:,} bytes unpacked, and at most "
                f"{max_bytes:,} can be"
            )
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            wanted = arrays.files if names is None else names
            return {name: arrays[name] for name in arrays.files if name in wanted}
