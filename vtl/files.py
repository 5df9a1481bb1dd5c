"""Where the cache is, what a file hashes to, and the one way to write a file."""

import functools
import hashlib
import itertools
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from absl import logging


def cache_dir() -> Path:
    """Returns the directory for downloads: $VTL_CACHE, else ~/.cache/vtl.

    If nothing can be written there, this process uses a temporary directory and warns once.
    """
    path = Path(os.environ.get("VTL_CACHE") or "~/.cache/vtl")
    try:
        path = path.expanduser()  # RuntimeError if there is no home directory
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except (OSError, RuntimeError) as error:
        return _temporary_cache_dir(str(error))
    return path


@functools.cache
def _temporary_cache_dir(reason: str) -> Path:
    path = Path(tempfile.mkdtemp(prefix="vtl-"))
    logging.warning(
        "cannot write to the cache (%s)\n"
        "This run keeps its downloads, decoded photos and compiled programs in %s.\n"
        "Set VTL_CACHE to the directory of a cache that lasts.",
        reason,
        path,
    )
    return path


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Returns the hexadecimal sha256 of a file's content."""
    return file_digest(path, "sha256")


def file_md5(path: str | os.PathLike[str]) -> str:
    """Returns the hexadecimal md5 of a file's content."""
    return file_digest(path, "md5")


def file_digest(path: str | os.PathLike[str], algorithm: str) -> str:
    """Returns the hexadecimal digest of a file's content by one of hashlib's algorithms."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears at `path` complete or not at all.

    The content goes to a temporary file beside it, which is flushed to disk and renamed at the end.
    If anything fails, even a full disk, the temporary file is deleted and `path` stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        # If the directory itself is the problem, the first error is the one to report.
        with suppress(OSError):
            temporary.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON. Raises ValueError for NaN and infinity."""
    content = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with whole_file(path) as file:
        file.write(content.encode())


def write_npz(path: Path, arrays: Mapping[str, Any], *, compressed: bool = True) -> None:
    """Write named arrays as an .npz that `np.load` reads without pickle."""
    with whole_file(path) as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)


def set_aside(path: Path, name: str, directory: Path) -> Path:
    """Rename what can't be believed to damaged_NAME_TIME in `directory`: nothing is deleted."""
    stem = f"damaged_{name}_{time.strftime('%Y%m%d-%H%M%S')}"
    target = directory / stem
    for number in itertools.count(2):
        if not os.path.lexists(target):
            break
        target = directory / f"{stem}_{number}"
    return path.rename(target)
