"""What the readers of weight files share: nothing in such a file is believed unchecked."""

import contextlib
import os
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from vtl.errors import UserError
from vtl.untrusted import printable, reason_of

EXPECTED = "expected a safetensors, PyTorch .pth or Keras .h5 file"

MAX_TENSORS = 20_000
"""A ResNet-152 has 930, with an optimizer's state and an average of itself five times as many."""

_MAX_DIRECTORY_BYTES = 1 << 23
"""Of a zip: 20,000 members with names of hundreds of characters."""

Tensors = dict[str, np.ndarray]


def check_present(what: str, promised: int, present: int) -> None:
    """UserError if a file of `present` bytes speaks of more."""
    if promised > present:
        raise UserError(
            f"looks truncated: {what} promises {promised} bytes, file has {present}; fetch it again"
        )


def check_count(what: str, count: int) -> None:
    """UserError for more of something than any network has."""
    if count > MAX_TENSORS:
        raise UserError(f"holds {count:,} {what}, and no network has more than {MAX_TENSORS:,}")


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """The archive in `file`, of which nothing but the directory is read."""
    if _directory_bytes(file) > _MAX_DIRECTORY_BYTES:
        raise UserError("is a zip of more files than torch.save and Keras write; refused")
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise UserError(
            "looks truncated: the zip directory at its end is missing; fetch it again"
        ) from error


def _directory_bytes(file: BinaryIO) -> int:
    """How long a zip's directory says it is; ZipFile makes an object of each entry in it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 22 - 20 - 56))
    tail = file.read()
    file.seek(0)
    end, end_64 = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    if end_64 >= 0 and tail[end + 12 : end + 16] == b"\xff" * 4:
        return int.from_bytes(tail[end_64 + 40 : end_64 + 48], "little")
    return int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0


def check_stored(archive: zipfile.ZipFile, file: BinaryIO) -> None:
    """UserError if a member is compressed, or all of them are larger than their file."""
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise UserError("is a compressed zip, which neither torch.save nor Keras writes; refused")
    promised = sum(member.file_size for member in archive.infolist())
    check_present("zip directory", promised, os.fstat(file.fileno()).st_size)


@contextlib.contextmanager
def errors_of(where: object) -> Iterator[None]:
    """Turns any exception into a UserError of one line that begins with `where`."""
    try:
        yield
        return
    except UserError as error:
        reason = str(error)
    except Exception as error:  # hostile bytes make the libraries below raise nearly anything
        reason = f"can't be read, damaged or incomplete ({reason_of(error)})"
    # The reason may quote the file, which may hold newlines and terminal escapes.
    raise UserError(f"{printable(where)}: {printable(reason, 300)}")
