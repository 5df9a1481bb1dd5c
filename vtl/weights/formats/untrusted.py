"""What the readers of weight files share: nothing in such a file is believed unchecked."""

import contextlib
import os
import re
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from vtl.errors import UserError

EXPECTED = "expected a safetensors, PyTorch .pth or Keras .h5 file"

Tensors = dict[str, np.ndarray]


def check_present(what: str, promised: int, present: int) -> None:
    """UserError where a file of `present` bytes speaks of more."""
    if promised > present:
        raise UserError(
            f"looks truncated: {what} promises {promised} bytes, file has {present}; fetch it again"
        )


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """The archive in `file`, of which nothing but the directory is read."""
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise UserError(
            "looks truncated: the zip directory at its end is missing; fetch it again"
        ) from error


def check_stored(archive: zipfile.ZipFile, file: BinaryIO) -> None:
    """UserError where a member is compressed, or all of them are larger than their file."""
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
        reason = f"can't be read, damaged or incomplete ({type(error).__name__}: {error})"
    # The reason may quote the file, which may hold newlines and terminal escapes.
    raise UserError(f"{where}: {re.sub('[^ -~]+', ' ', reason)[:500]}")
