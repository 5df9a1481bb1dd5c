"""Downloads that resume and are checked, and archives that are unpacked whole or not at all."""

import contextlib
import errno
import http.client
import json
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from absl import logging
from tqdm import tqdm

from vtl.errors import FetchError, UserError
from vtl.files import file_digest, file_sha256

try:
    import fcntl
except ImportError:  # Windows: two processes that fetch the same file at once are not kept apart
    fcntl = None  # type: ignore[assignment]

TIMEOUT_S = 30.0
ATTEMPTS_PER_MIRROR = 4
CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class Download:
    """A file, the mirrors that serve it in order of preference, and what it must look like.

    `size` is in bytes. `sha256` and `md5` are hexadecimal digests, or as many of their first digits
    as are known (torchvision publishes eight). What is None is not checked.
    """

    filename: str
    urls: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None


def fetch(download: Download, directory: Path) -> Path:
    """Returns the path of the file in `directory`, and downloads it first if it is not there.

    A part that an earlier run left behind is resumed. The file gets its name only once its size
    and hash are right. A file that somebody put there by hand is checked on first use. Where no
    whole hash is known, the first file's is noted beside it and pinned: another one is refused.

    Raises:
      FetchError: every mirror failed, or VTL_OFFLINE is set.
      UserError: the disk is full, or the file there is not the expected one.
    """
    path = directory / download.filename
    try:
        if not path.is_file():
            directory.mkdir(parents=True, exist_ok=True)
            with _locked(path):
                if not path.is_file():  # another process may have fetched it during the wait
                    _fetch_from_mirrors(download, path)
        _check_finished(download, path)
    except OSError as error:
        raise _local_failure(f"cannot read or write {path}", error) from error
    return path


def _fetch_from_mirrors(download: Download, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    is_offline = os.environ.get("VTL_OFFLINE", "0") not in ("", "0")
    failures = ["VTL_OFFLINE is set"] if is_offline else []
    for url in () if is_offline else download.urls:
        reason = _fetch_from_mirror(download, url, part)
        if not reason:
            os.replace(part, path)
            return
        failures.append(f"{url}: {reason}")
        logging.info("%s: %s", url, reason)
    looks = [f"{download.size:,} bytes"] if download.size is not None else []
    looks += [f"{name} {digest}" for name, digest in _expected_digests(download).items()]
    raise FetchError(
        f"could not fetch {download.filename} ({'; '.join(failures) or 'no mirror is known'}); try "
        "again later, or put a file of exactly this name "
        f"({', '.join(looks) or 'size and hash are not known'}) at {path} by hand"
    )


def _fetch_from_mirror(download: Download, url: str, part: Path) -> str:
    """Completes the part file from one mirror; returns why that failed, or an empty string."""
    reason = ""
    for _ in range(ATTEMPTS_PER_MIRROR):
        offset = part.stat().st_size if part.exists() else 0
        if download.size is not None and offset > download.size:
            part.unlink()
            offset = 0
        try:
            if offset == 0 or offset != download.size:
                _transfer(download, url, part, offset)
        except urllib.error.HTTPError as error:
            error.close()
            reason = _one_line(error)
            if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return reason
            part.unlink(missing_ok=True)
        except urllib.error.URLError as error:
            return _one_line(error.reason)
        except (OSError, http.client.HTTPException) as error:
            if _is_disk_full(error):
                raise
            reason = _one_line(error)
        else:
            reason = _difference(download, part)
            if not reason:
                return ""
            part.unlink()
            if offset == 0:  # otherwise the old part may be what was wrong: start over
                return reason
    return reason


def _transfer(download: Download, url: str, part: Path, offset: int) -> None:
    """Writes the bytes from `offset` on to the part file, or all of them if the server says so.

    Raises:
      URLError: the mirror can't be reached, refuses, or offers a file of another size.
      OSError, HTTPException: the transfer broke off; another attempt may go on from there.
    """
    headers = {"User-Agent": "vtl"} | ({"Range": f"bytes={offset}-"} if offset else {})
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            offset = 0
        total = download.size if response.length is None else offset + response.length
        if download.size is not None and total != download.size:
            # Checked before the part file is opened: a login page must not wipe out 400 MB.
            raise urllib.error.URLError(f"offers {total:,} bytes, expected {download.size:,}")
        with (
            part.open("ab" if offset else "wb") as file,
            _progress_bar(download.filename, total, offset) as bar,
        ):
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
                offset += len(chunk)
                if total is not None and offset > total:
                    break
    if total is not None and offset < total:
        raise ConnectionError(f"connection closed after {offset:,} of {total:,} bytes")


def _expected_digests(download: Download) -> dict[str, str]:
    digests = {"sha256": download.sha256, "md5": download.md5}
    return {name: digest.lower() for name, digest in digests.items() if digest}


def _difference(download: Download, path: Path) -> str:
    """Says in what the file differs from the expected one; an empty string if in nothing."""
    differences = []
    size = path.stat().st_size
    if download.size is not None and size != download.size:
        differences.append(f"{size:,} bytes (expected {download.size:,})")
    for name, expected in _expected_digests(download).items():
        found = file_digest(path, name)
        if not found.startswith(expected):
            differences.append(f"{name} {found} (expected {expected})")
    return "the file has " + " and ".join(differences) if differences else ""


def _check_finished(download: Download, path: Path) -> None:
    """Checks the file, unless the note beside it says that exactly this file was checked before."""
    stat = path.stat()
    facts: dict[str, str | int] = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    facts |= _expected_digests(download)
    note = path.with_name(path.name + ".verified")
    before = _read_note(note)
    has_whole_digest = any(len(d) in (32, 64) for d in _expected_digests(download).values())
    if before.items() >= facts.items() and (has_whole_digest or "pinned" in before):
        return
    difference = _difference(download, path)
    if not difference and not has_whole_digest:
        facts["pinned"] = sha256 = file_sha256(path)
        if before.get("pinned", sha256) != sha256:
            difference = (
                f"the file has sha256 {sha256}, the first one had {before['pinned']} (if its "
                f"publisher has replaced it, delete {note.name} too)"
            )
    if difference:
        raise UserError(
            f"{path} is not the expected file: {difference}; delete it to have it fetched, or put "
            "the right file there"
        )
    with contextlib.suppress(OSError):  # where nothing can be written, each use checks again
        note.write_text(json.dumps(facts))


def _read_note(note: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(note.read_text())
        return content if isinstance(content, dict) else {}
    return {}


def unpack_tar(archive: Path, target: Path) -> None:
    """Unpacks an uncompressed tar archive into the directory `target`, beside what is there.

    The archive is unpacked next to `target`, then moved in; `.unpacked-<archive name>` is written
    last, and where it exists nothing is done. Files that are already there are replaced.

    Raises:
      UserError: the archive is damaged, would write or link outside `target`, or does not fit.
    """
    target = target.resolve()
    marker = target / f".unpacked-{archive.name}"
    if marker.exists():
        return
    unpacking = target.with_name(f".{target.name}.unpacking")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if marker.exists():  # another process may have unpacked it during the wait
                return
            shutil.rmtree(unpacking, ignore_errors=True)  # a killed process can leave it behind
            try:
                unpacking.mkdir()
                _extract(archive, unpacking)
                _move_into(unpacking, target)
                marker.touch()
            finally:
                shutil.rmtree(unpacking, ignore_errors=True)
    except OSError as error:
        raise _local_failure(f"cannot unpack {archive} into {target}", error) from error
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise UserError(
            f"cannot unpack {archive}: {_one_line(error)}; the archive is damaged or unsafe, "
            "delete it and fetch it again"
        ) from error


def _extract(archive: Path, directory: Path) -> None:
    with (
        tarfile.open(archive, "r:") as tar,
        _progress_bar(f"unpacking {archive.name}", archive.stat().st_size) as bar,
    ):
        for member in tar:
            tar.extract(member, directory, filter="data")
            bar.update(tar.offset - bar.n)
        # tarfile takes an archive that was cut between two members for a whole one; a whole one
        # ends in blocks of zeros.
        with archive.open("rb") as file:
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("unexpected end of data")


def _move_into(source: Path, destination: Path) -> None:
    """Moves a file or tree to `destination`; directories that exist on both sides are merged."""
    if source.is_dir() and not source.is_symlink() and destination.is_dir():
        for entry in source.iterdir():
            _move_into(entry, destination / entry.name)
    else:
        os.replace(source, destination)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes from working on `path`, which need not exist, at the same time."""
    # The lock file stays: if it were deleted, two processes could each hold a lock on their own.
    with path.with_name(f".{path.name}.lock").open("a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logging.warning("another process is busy with %s; waiting for it", path)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _progress_bar(description: str, total: int | None, initial: int = 0) -> tqdm:
    return tqdm(desc=description, total=total, initial=initial, unit="B", unit_scale=True)


def _is_disk_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _local_failure(action: str, error: OSError) -> UserError:
    if _is_disk_full(error):
        return UserError(f"{action}: the disk is full; free some space, or use another directory")
    return UserError(f"{action}: {_one_line(error)}")


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
