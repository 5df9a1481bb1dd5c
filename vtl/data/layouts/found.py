"""What a layout says of photos, before they are parted into splits."""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vtl.data.photo_files import SUFFIXES
from vtl.data.split import Flags
from vtl.errors import UserError
from vtl.untrusted import printable, reason_of

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What people call the three splits, in small letters -> what they are called here."""

MAX_FILES = 20_000_000
"""That are listed below a data root: more are no folder of photos."""


@dataclass(frozen=True, eq=False)
class Found:
    """N photos and what is in them.

    Attributes:
        names: the photos' paths below `root`, with `/`.
        labels: [N, C], 1 if the class is in the photo.
        label_mask: [N, C], 0 where that is not known.
        difficult: [N, C], as in `Split`.
        splits: [N] the names of the photos' splits; None if the layout has no splits.
        groups: [N] what must stay together when splits are drawn; None: each photo by itself.
        notes: what the person should know of how it was read.
    """

    root: Path
    names: list[str]
    labels: Flags
    label_mask: np.ndarray
    difficult: np.ndarray
    classes: tuple[str, ...]
    splits: list[str] | None = None
    groups: list[str] | None = None
    notes: list[str] = field(default_factory=list)


def split_name(name: str) -> str:
    """`Training` -> `train`; a name that is none of the usual ones stays."""
    return SPLIT_NAMES.get(name.strip().lower(), name.strip())


def is_photo(name: str) -> bool:
    """Whether a file's name ends as a photo's does, and isn't what macOS puts beside one."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("._")


def list_folder(path: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """The names of a folder's folders and of its files, sorted; links are followed.

    Raises:
        UserError: it can't be read.
    """
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise UserError(f"{printable(path)} can't be read: {reason_of(error)}") from error
    return sorted(folders), sorted(files)


def walk(root: Path, below: str = "") -> Iterator[str]:
    """The files in the folder root/below and all its folders, as paths below `root`, sorted.

    Folders whose names begin with a dot are left out. A folder that a link leads to is read, but
    not twice.

    Raises:
        UserError: a folder can't be read, or there are over `MAX_FILES` files.
    """
    waiting, seen, count = [below], set(), 0
    while waiting:
        folder = waiting.pop()
        where = os.path.join(root, folder)
        real = os.path.realpath(where)
        if real in seen:
            continue
        seen.add(real)
        folders, files = list_folder(where)
        _refuse_undecodable(where, files)
        prefix = f"{folder}/" if folder else ""
        waiting += [f"{prefix}{name}" for name in reversed(folders) if name[0] != "."]
        count += len(files)
        if count > MAX_FILES:
            raise UserError(f"{printable(root)} holds more than {MAX_FILES:,} files")
        yield from (f"{prefix}{name}" for name in files)


def _refuse_undecodable(folder: str, files: list[str]) -> None:
    """Names that are no text in UTF-8 can be neither shown nor written down."""
    try:
        "".join(files).encode()
    except UnicodeEncodeError:
        for name in files:
            if is_photo(name) and not name.isascii():
                try:
                    name.encode()
                except UnicodeEncodeError:
                    shown = printable(name.encode(errors="backslashreplace").decode(), 80)
                    raise UserError(
                        f"{printable(folder)}: the name of photo {shown} is not UTF-8: rename it"
                    ) from None


def letters(text: str) -> str:
    """The text with its accents stored one way: macOS stores them another than most."""
    return unicodedata.normalize("NFC", text)


def check_classes(classes: Iterable[str], where: object) -> list[str]:
    """Refuse names of classes that can't be shown; a note for those that differ in case only.

    Raises:
        UserError: a name is empty, over 200 characters or can't be printed.
    """
    by_letters: dict[str, str] = {}
    notes = []
    for name in classes:
        if not name.strip() or not name.isprintable() or len(name) > 200:
            raise UserError(
                f"{printable(where)}: class {printable(name, 40)!r} must have 1 to 200 characters "
                "that can be printed"
            )
        twin = by_letters.setdefault(name.casefold(), name)
        if twin != name:
            notes.append(
                f"classes {printable(twin, 60)} and {printable(name, 60)} differ in case only"
            )
    return notes
