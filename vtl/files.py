"""Files: where the cache is, what a file hashes to, the one way to write one, and locks."""

import errno
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from absl import logging

try:
    import fcntl
except ImportError:  # Windows: what a killed process left stays, and nothing is locked
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.tmp", re.DOTALL)


def user_path(text: str | os.PathLike[str]) -> Path:
    """A path as a person gives it: `~` is the home directory."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def cache_dir() -> Path:
    """Returns the directory for downloads: $VTL_CACHE, else ~/.cache/vtl.

    Where that can't be created or written, a temporary directory takes its place for as long as
    this process runs, and a warning says so once. What was in the cache is still read from there:
    see `cache_holding`.
    """
    path = _named_cache_dir()
    try:
        path = path.expanduser()  # RuntimeError if there is no home directory
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except (OSError, RuntimeError) as error:
        return _temporary_cache_dir(path, getattr(error, "strerror", None) or str(error))
    return path


def cache_holding(*names: str) -> Path:
    """The cache that holds all of `names`: one that may only be read, or else `cache_dir`."""
    with suppress(OSError, RuntimeError):
        path = _named_cache_dir().expanduser()
        if all((path / name).exists() for name in names):
            return path
    return cache_dir()


def _named_cache_dir() -> Path:
    return Path(os.environ.get("VTL_CACHE") or "~/.cache/vtl")


@functools.cache
def _temporary_cache_dir(unwritable: Path, reason: str) -> Path:
    path = Path(tempfile.mkdtemp(prefix="vtl-"))
    logging.warning(
        "cannot write to the cache %s (%s): it is only read\n"
        "This run keeps its downloads, decoded photos and compiled programs in %s.\n"
        "Set VTL_CACHE to the directory of a cache that lasts.",
        unwritable,
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

    What is written goes to a temporary name beside it, is flushed to the disk and renamed at the
    end. Where anything fails, a full disk too, the temporary file goes and `path` stays as it was.
    What a killed process left of the same file goes first.
    """
    try:
        with _locked_beside(path, lambda new: new.touch(exist_ok=False)) as temporary:
            try:
                with temporary.open("r+b") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                # The directory itself may be what is wrong; that error is the one to report.
                with suppress(OSError):
                    temporary.unlink()
    except OSError as error:
        # That of a write names no file, and nobody knows the temporary one.
        is_unnamed = error.filename is None and error.errno is not None
        if is_unnamed or _TEMPORARY.fullmatch(Path(str(error.filename)).name):
            error.filename = str(path)
        raise


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A new directory to fill that appears at `path` whole or not at all.

    Where another process has made one there meanwhile, that one stays.
    """
    with _locked_beside(path, Path.mkdir) as temporary:
        try:
            yield temporary
            temporary.rename(path)
        except OSError:
            if not path.exists():
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _locked_beside(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary name beside `path`, made and then locked, so that it shows who is at work."""
    remove_litter(path.parent, path.name)
    descriptor = None
    while descriptor is None:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        make(temporary)
        if fcntl is None:
            break
        # Until it is locked, another process may remove it as litter.
        with suppress(FileNotFoundError):
            descriptor = os.open(temporary, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not temporary.exists():
                os.close(descriptor)
                descriptor = None
    try:
        yield temporary
    finally:
        if descriptor is not None:
            os.close(descriptor)


def remove_litter(directory: Path, name: str | None = None) -> None:
    """Remove what was being written in `directory`, under `name`, when its process was killed.

    What a living process still writes is locked, and stays.
    """
    for temporary in directory.glob(".*.tmp") if fcntl else ():
        match = _TEMPORARY.fullmatch(temporary.name)
        if not match or name not in (None, match[1]):
            continue
        with suppress(OSError):
            # No waiting, neither for a writer's lock nor for a pipe of such a name.
            descriptor = os.open(temporary, os.O_RDONLY | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if temporary.is_dir():
                    shutil.rmtree(temporary, ignore_errors=True)
                else:
                    temporary.unlink()
            finally:
                os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Wait until no other process works on `path`, which need not exist, and keep them waiting.

    For what one process makes and all use: each looks again, once it has waited, whether it is
    there. The system ends the wait when the other ends, however that is. On a file system without
    locks nobody waits, and False comes instead of True. On Windows nobody waits.
    """
    # The lock file stays: if it were deleted, two processes could hold locks on different files.
    with path.with_name(f".{path.name}.lock").open("a") as file:
        yield fcntl is None or _waited(file.fileno(), path)


def _waited(descriptor: int, path: Path) -> bool:
    """Whether it is locked now; False if it can't be."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logging.warning("another process is busy with %s; waiting for it", path)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


@contextmanager
def growing_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read and write on, as this process's; a new one is empty.

    For what takes hours and goes on later: it is readable while it grows, and stays where that ends
    too early. `finish` renames it once it is whole.

    Raises:
        BlockingIOError: another process writes it.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, flags, 0o666), "r+b") as file:
        if fcntl and not _flock(file.fileno(), fcntl.LOCK_EX, 0):
            raise BlockingIOError(errno.EWOULDBLOCK, "another process writes it", str(path))
        yield file


def finish(growing: Path, path: Path) -> None:
    """Flush a file that has grown to its end to the disk, and rename it to `path`."""
    with growing.open("r+b") as file:
        os.fsync(file.fileno())
    growing.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON. Raises ValueError for NaN and infinity."""
    content = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with whole_file(path) as file:
        file.write(content.encode())


def write_npz(path: Path, arrays: Mapping[str, Any], *, compressed: bool = True) -> None:
    """Write named arrays as an .npz that `np.load` reads without pickle."""
    with whole_file(path) as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)


LOCK_NAME = ".lock"
_LOCK_WAIT_S = 1.0
"""How long another process may look whether a directory is in use, which locks it for a moment."""

_MAX_NOTE_BYTES = 1000

_locks: dict[Path, int] = {}
"""Locked by this process: the path of each lock's file, and its open descriptor."""


def lock(directory: Path, note: str) -> str | None:
    """Make `directory` this process's; returns None, or the note of the process whose it is.

    It is flock's lock on a file in there: the system lets go of it when the process ends, however
    it ends. A process may lock again what it has locked. Windows and file systems without flock
    have no such lock: there nothing is locked, and nobody is told of another process.

    Raises:
        OSError: the file can't be written.
    """
    if fcntl is None:
        return None
    path = Path(os.path.realpath(directory)) / LOCK_NAME
    if path in _locks and _is_at(_locks[path], path):
        return None
    unlock(directory)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            if not _flock(descriptor, fcntl.LOCK_EX, _LOCK_WAIT_S):
                return os.pread(descriptor, _MAX_NOTE_BYTES, 0).decode(errors="replace")
            # The process that had it may have removed the file after it was opened here.
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, note.encode(), 0)
                _locks[path], descriptor = descriptor, -1
                return None
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def unlock(directory: Path) -> None:
    """Give up `lock`, if this process has it, and remove its file."""
    path = Path(os.path.realpath(directory)) / LOCK_NAME
    descriptor = _locks.pop(path, None)
    if descriptor is None:
        return
    with suppress(OSError):
        if _is_at(descriptor, path):
            path.unlink()
    os.close(descriptor)


def locked_by(directory: Path) -> str | None:
    """The note of another process that has locked `directory`, None if there is none."""
    path = Path(os.path.realpath(directory)) / LOCK_NAME
    if fcntl is None or path in _locks:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if _flock(descriptor, fcntl.LOCK_SH, 0):
            return None
        return os.pread(descriptor, _MAX_NOTE_BYTES, 0).decode(errors="replace")
    finally:
        os.close(descriptor)


def _flock(descriptor: int, operation: int, wait_s: float) -> bool:
    """Whether it is locked now, or can't be; False if another process has it."""
    end = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        except OSError:  # a file system without locks
            return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def set_aside(path: Path, name: str, directory: Path) -> Path:
    """Rename what can't be believed to damaged_NAME_TIME in `directory`: nothing is deleted."""
    stem = f"damaged_{name}_{time.strftime('%Y%m%d-%H%M%S')}"
    target = directory / stem
    for number in itertools.count(2):
        if not os.path.lexists(target):
            break
        target = directory / f"{stem}_{number}"
    return path.rename(target)
