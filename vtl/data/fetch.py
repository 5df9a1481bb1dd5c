"""Downloads that resume and are checked."""

import contextlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from absl import logging
from tqdm import tqdm

from vtl import disks
from vtl.errors import FetchError, UserError
from vtl.files import file_digest, file_sha256, locked, write_json
from vtl.untrusted import printable, read_json, reason_of

TIMEOUT_S = 30.0
WINDOW_S = 60.0
LEAST_BYTES_PER_S = 1 << 10
"""A mirror that stays below it for a window is given up."""

ATTEMPTS_PER_MIRROR = 4
CHUNK_BYTES = 1 << 18
MAX_BYTES = 1 << 34
"""Of a download of unknown size: more than any weights that vtl reads."""

MAX_NOTE_BYTES = 1 << 16


@dataclass(frozen=True)
class Download:
    """A file, the mirrors that serve it in order of preference, and what it must look like.

    `size` is in bytes. `sha256` and `md5` are hexadecimal digests, or as many of their first digits
    as are known (torchvision publishes eight). What is None is not checked. If there is no digest,
    `complaint` looks at a file and says why it can't be the right one (it may be empty, cut short
    or a login page), "" if it can.
    """

    filename: str
    urls: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    complaint: Callable[[Path], str] | None = None


def fetch(download: Download, directory: Path, *, instead: str = "") -> Path:
    """Returns the path of the file in `directory`, and downloads it first if it is not there.

    A download that an earlier run left unfinished is resumed. The file gets its name only once its
    size and hash are right. A file that somebody put there by hand is checked on first use. If no
    complete hash is known, the hash of the first file is written beside it, and a file with another
    hash is refused. `instead` tells people what to do if every mirror fails. Of several processes
    one fetches it, and the others wait; if that one ends too early, the next goes on.

    Raises:
        FetchError: every mirror failed, or VTL_OFFLINE is set.
        UserError: the disk is full, or the file there is not the expected one.
    """
    path = directory / download.filename
    try:
        if path.is_file():
            _check_finished(download, path)
            return path
        directory.mkdir(parents=True, exist_ok=True)
        with locked(path) as is_alone:
            if not path.is_file():  # another process may have fetched it during the wait
                own = "" if is_alone else f".{uuid.uuid4().hex}"
                part = path.with_name(f"{path.name}{own}.part")
                _fetch_from_mirrors(download, path, part, instead)
            _check_finished(download, path)
    except OSError as error:
        raise local_failure(f"cannot read or write {path}", error) from error
    return path


def _fetch_from_mirrors(download: Download, path: Path, part: Path, instead: str) -> None:
    is_offline = os.environ.get("VTL_OFFLINE", "0") not in ("", "0")
    failures: dict[str, list[str]] = {"VTL_OFFLINE is set": []} if is_offline else {}
    for url in () if is_offline else download.urls:
        reason = _fetch_from_mirror(download, url, part)
        if not reason:
            os.replace(part, path)
            _note_of_part(part).unlink(missing_ok=True)
            return
        failures.setdefault(reason, []).append(urllib.parse.urlsplit(url).netloc or url)
        logging.info("%s: %s", url, reason)
    reasons = [": ".join(filter(None, (", ".join(hosts), why))) for why, hosts in failures.items()]
    raise FetchError(
        f"could not fetch {download.filename} ({'; '.join(reasons) or 'no mirror is known'})\n"
        f"Try again later, or {instead or _put_by_hand(download, path)}."
    )


def _put_by_hand(download: Download, path: Path) -> str:
    facts = [f"{download.size:,} bytes"] if download.size is not None else []
    facts += [f"{name} {digest}" for name, digest in _expected_digests(download).items()]
    return f"put the file ({', '.join(facts) or 'its size and hash are not known'}) at {path}"


def _fetch_from_mirror(download: Download, url: str, part: Path) -> str:
    """Complete the part file from one mirror; return why that failed, or an empty string."""
    reason = ""
    for _ in range(ATTEMPTS_PER_MIRROR):
        offset = _resumable_bytes(download, url, part)
        try:
            if offset == 0 or offset != download.size:
                _transfer(download, url, part, offset)
        except urllib.error.HTTPError as error:
            error.close()
            reason = reason_of(error)
            if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return reason
            part.unlink(missing_ok=True)
        except urllib.error.URLError as error:
            inner = error.reason
            return reason_of(inner) if isinstance(inner, Exception) else printable(inner)
        except (OSError, http.client.HTTPException) as error:
            if disks.is_full(error):
                raise
            reason = reason_of(error)
        except ValueError as error:  # a malformed URL or header
            return reason_of(error)
        else:
            reason = _difference(download, part)
            if not reason:
                return ""
            part.unlink()
            if offset == 0:  # otherwise the old part may be what is wrong: start over
                return reason
    return reason


def _resumable_bytes(download: Download, url: str, part: Path) -> int:
    """The length of the part file that an earlier attempt left, 0 if it can't be resumed.

    Any part can be resumed if a digest will check the complete file. Without a digest, the server
    must still have the same file, by its ETag or date.
    """
    if not part.exists():
        return 0
    offset = part.stat().st_size
    can_be_checked = _expected_digests(download) or _validator(url, part)
    if not can_be_checked or (download.size is not None and offset > download.size):
        part.unlink()
        return 0
    return offset


def _validator(url: str, part: Path) -> str:
    """The ETag or date with which `url` served the part file, "" if there is none."""
    with contextlib.suppress(UserError):
        note = read_json(_note_of_part(part), max_bytes=MAX_NOTE_BYTES)
        if isinstance(note, dict) and note.get("url") == url:
            validator = note.get("validator")
            return validator if isinstance(validator, str) else ""
    return ""


def _note_of_part(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _open(request: urllib.request.Request) -> Any:
    """Open a request by http or https; no other scheme has a handler, even after a redirect."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPRedirectHandler(),
    ):
        opener.add_handler(handler)
    return opener.open(request, timeout=TIMEOUT_S)


def _transfer(download: Download, url: str, part: Path, offset: int) -> None:
    """Write the bytes from `offset` on to the part file, or all of them if the server sends all.

    Raises:
        URLError: the mirror can't be reached, refuses, or offers a file of another size.
        OSError, HTTPException: the transfer broke off or was too slow; another attempt can resume
            it.
    """
    headers = {"User-Agent": "vtl"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator := _validator(url, part):
            headers["If-Range"] = validator
    with _open(urllib.request.Request(url, headers=headers)) as response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            offset = 0
        elif not _begins_at(response, offset):
            raise urllib.error.URLError("sends another part than the requested one")
        total = download.size if response.length is None else offset + response.length
        if download.size is not None and total != download.size:
            # Checked before the part file is opened: a login page must not wipe out 400 MB.
            raise urllib.error.URLError(f"offers {total:,} bytes, expected {download.size:,}")
        if total is not None and total > MAX_BYTES:
            raise urllib.error.URLError(f"offers {total:,} bytes, more than any file that vtl uses")
        if offset == 0:
            etag = response.headers["ETag"] or ""
            strong = "" if etag.startswith("W/") else etag
            validator = strong or response.headers["Last-Modified"] or ""
            write_json(_note_of_part(part), {"url": url, "validator": validator})
        with (
            part.open("ab" if offset else "wb") as file,
            progress_bar(download.filename, total, offset) as bar,
        ):
            for chunk in _chunks(response):
                file.write(chunk)
                bar.update(len(chunk))
                offset += len(chunk)
                if offset > (MAX_BYTES if total is None else total):
                    break
    if total is not None and offset < total:
        raise ConnectionError(f"connection closed after {offset:,} of {total:,} bytes")


def _begins_at(response: Any, offset: int) -> bool:
    """Whether a partial answer begins at `offset`; one without Content-Range is trusted."""
    content_range = response.headers["Content-Range"]
    return content_range is None or content_range.startswith(f"bytes {offset}-")


def _chunks(response: Any) -> Iterator[bytes]:
    """Yield the content as it comes, and give up on a server that sends next to nothing."""
    window_start, received = time.monotonic(), 0
    while chunk := response.read1(CHUNK_BYTES):
        yield chunk
        received += len(chunk)
        elapsed = time.monotonic() - window_start
        if elapsed > WINDOW_S:
            if received < LEAST_BYTES_PER_S * elapsed:
                raise ConnectionError(f"only {received:,} bytes came in {elapsed:.0f} s")
            window_start, received = time.monotonic(), 0


def _expected_digests(download: Download) -> dict[str, str]:
    digests = {"sha256": download.sha256, "md5": download.md5}
    return {name: digest.lower() for name, digest in digests.items() if digest}


def _difference(download: Download, path: Path) -> str:
    """How the file differs from the expected one, "" if it does not."""
    differences = []
    size = path.stat().st_size
    if download.size is not None and size != download.size:
        differences.append(f"{size:,} bytes (expected {download.size:,})")
    for name, expected in _expected_digests(download).items():
        digest = file_digest(path, name)
        if not digest.startswith(expected):
            differences.append(f"{name} {digest} (expected {expected})")
    if differences:
        return "the file has " + " and ".join(differences)
    if download.complaint and not _expected_digests(download):
        return download.complaint(path)
    return ""


def _has_complete_digest(download: Download) -> bool:
    return any(len(digest) in (32, 64) for digest in _expected_digests(download).values())


def _check_finished(download: Download, path: Path) -> None:
    """Check the file, unless the note beside it says that this very file was checked before.

    Raises:
        UserError: it is not the expected file.
    """
    stat = path.stat()
    facts: dict[str, str | int] = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    facts |= _expected_digests(download)
    note = path.with_name(path.name + ".verified")
    before = _read_note(note)
    has_complete_digest = _has_complete_digest(download)
    if before.items() >= facts.items() and (has_complete_digest or "pinned" in before):
        return
    difference = _difference(download, path)
    remedy = "Delete it to fetch it again, or put the right file there."
    if not difference and not has_complete_digest:
        facts["pinned"] = sha256 = file_sha256(path)
        if before.get("pinned", sha256) != sha256:
            difference = f"the file has sha256 {sha256}, the first one had {before['pinned']}"
            remedy += f"\nIf its publisher has replaced it, delete {note.name} too."
    if difference:
        raise UserError(f"{path} is not the expected file: {difference}\n{remedy}")
    with contextlib.suppress(OSError):  # if nothing can be written, each use checks again
        write_json(note, facts)


def _read_note(note: Path) -> dict[str, Any]:
    with contextlib.suppress(UserError):
        content = read_json(note, max_bytes=MAX_NOTE_BYTES)
        return content if isinstance(content, dict) else {}
    return {}


def progress_bar(description: str, total: int | None, initial: int = 0) -> tqdm:
    """A progress bar that counts bytes."""
    return tqdm(desc=description, total=total, initial=initial, unit="B", unit_scale=True)


def local_failure(action: str, error: OSError) -> UserError:
    """A UserError for a failure of this machine's disk during `action`."""
    if disks.is_full(error):
        return UserError(f"{action}: the disk is full; free some space, or use another directory")
    return UserError(f"{action}: {reason_of(error)}")
