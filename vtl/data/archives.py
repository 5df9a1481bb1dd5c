"""Unpacks an archive completely or not at all, and trusts nothing in it."""

import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from vtl.data.fetch import local_failure, progress_bar
from vtl.errors import UserError
from vtl.files import locked
from vtl.untrusted import open_plain, printable, reason_of

MAX_MEMBERS = 1_000_000
MAX_NAME_BYTES = 1024
MAX_DEPTH = 16

_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME)
"""Headers that describe the next member, such as by a long name."""


def unpack_tar(archive: Path, target: Path) -> None:
    """Unpack an uncompressed tar archive into the directory `target`, beside what is there.

    It may hold only plain files and folders. They are unpacked next to `target`, then moved in;
    files that are already there are replaced. `.unpacked-<archive name>` is written last: if it
    exists, nothing is done.

    Raises:
        UserError: the archive is damaged, holds a link or a device, would write outside `target`,
            or does not fit on the disk.
    """
    target = Path(os.path.realpath(target))
    marker = target / f".unpacked-{archive.name}"
    if marker.exists():
        return
    unpacking = target.with_name(f".{target.name}.unpacking")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
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
        raise local_failure(f"cannot unpack {archive} into {target}", error) from error
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise UserError(
            f"cannot unpack {archive}: {reason_of(error)}\n"
            "The archive is damaged or unsafe: delete it and fetch it again."
        ) from error


def _extract(archive: Path, directory: Path) -> None:
    _check_headers(archive)
    with (
        open_plain(archive) as file,
        tarfile.open(fileobj=file, mode="r:") as tar,
        progress_bar(f"unpacking {archive.name}", archive.stat().st_size) as bar,
    ):
        for member in tar:
            path = directory / _relative_path(member.name)
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None  # a plain file, by _check_headers
            with path.open("xb") as unpacked:
                shutil.copyfileobj(content, unpacked)
            os.utime(path, (member.mtime, member.mtime))
            bar.update(tar.offset - bar.n)


def _check_headers(archive: Path) -> None:
    """Check every header before anything is unpacked.

    Raises:
        TarError: a header is damaged, is of neither a plain file nor a folder, or promises more
            bytes than the archive holds.
    """
    size = archive.stat().st_size
    with open_plain(archive) as file:
        for _ in range(MAX_MEMBERS):
            block = file.read(tarfile.BLOCKSIZE)
            # tarfile accepts an archive that was cut between two members, but a complete one ends
            # in blocks of zeros.
            if len(block) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("unexpected end of data")
            if block == bytes(tarfile.BLOCKSIZE):
                return
            member = tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
            is_extension = member.type in _EXTENSIONS
            name = printable(member.name)
            if is_extension and member.size > MAX_NAME_BYTES:
                raise tarfile.ReadError(f"the header before {name} has {member.size} bytes")
            if not (is_extension or member.type in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE)):
                raise tarfile.ReadError(f"{name} is neither a plain file nor a folder")
            if member.type in (tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE):
                raise tarfile.ReadError(f"{name} is neither a plain file nor a folder")
            blocks = -(-member.size // tarfile.BLOCKSIZE)
            end = file.seek(blocks * tarfile.BLOCKSIZE, os.SEEK_CUR)
            if member.size < 0 or end > size:
                raise tarfile.ReadError(f"unexpected end of data in {name}")
    raise tarfile.ReadError(f"it has more than {MAX_MEMBERS:,} members")


def _relative_path(name: str) -> PurePosixPath:
    """Where a member goes, relative to the target, even if its name is absolute."""
    path = PurePosixPath(name.lstrip("/"))
    is_inside = ".." not in path.parts and not any(c in name for c in "\\:\0")
    if not is_inside or len(name.encode(errors="surrogateescape")) > MAX_NAME_BYTES:
        raise tarfile.ReadError(f"{printable(name)} would land outside, or has no usable name")
    if len(path.parts) > MAX_DEPTH:
        raise tarfile.ReadError(f"{printable(name)} lies more than {MAX_DEPTH} folders deep")
    return path


def _move_into(source: Path, destination: Path) -> None:
    """Move a file or tree to `destination`; directories that exist on both sides are merged."""
    if source.is_dir() and not source.is_symlink() and destination.is_dir():
        for entry in source.iterdir():
            _move_into(entry, destination / entry.name)
    else:
        os.replace(source, destination)
