"""What a command names -> its photos, one after the other.

A folder is walked, a table and a pattern are read, as the photos are asked for: no list of them all
is ever made.
"""

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vtl.data.layouts import found, table
from vtl.errors import UserError, escaped
from vtl.files import user_path
from vtl.untrusted import printable

TABLE_SUFFIXES = (".csv", ".tsv")


class Photo(NamedTuple):
    """A photo as it was named, on one line, and its file.

    `problem` is why there is no such file, where a table names one in vain.
    """

    name: str
    path: Path
    problem: str = ""


def check(named: Sequence[str], root: Path | None = None) -> None:
    """Refuse what isn't there, and what names no photo.

    Raises:
        UserError: one of `named` is no file, folder or pattern, or there is no photo in it.
    """
    for text in named:
        if next(of_one(text, root), None) is None:
            raise UserError(f"{printable(text)} names no photo: {_what_it_is(text)}")


def _what_it_is(text: str) -> str:
    path = user_path(text)
    if path.is_dir():
        return "no file in that folder, or below it, is called as a photo is, such as 1.jpg"
    if path.exists():
        return "it has a line with names of columns alone"
    return "no file fits that pattern and is called as a photo is, such as 1.jpg"


def stream(named: Sequence[str], root: Path | None = None) -> Iterator[Photo]:
    """The photos of all that is named, in that order; a folder's are sorted.

    Args:
        named: photos, folders of them, tables (CSV, TSV) that name some, and patterns such as
            `photos/**/*.jpg`.
        root: where the names in tables start from, instead of the table's own folder.

    Raises:
        UserError: something isn't there, or can't be read.
    """
    for text in named:
        yield from of_one(text, root)


def known_count(named: Sequence[str]) -> int | None:
    """How many photos there are, if that is known without looking for them."""
    return len(named) if all(map(_is_photo_itself, named)) else None


def _is_photo_itself(text: str) -> bool:
    path = user_path(text)
    return path.suffix.lower() not in TABLE_SUFFIXES and path.is_file()


def of_one(text: str, root: Path | None = None) -> Iterator[Photo]:
    """The photos of one thing that is named; see `stream`."""
    path = user_path(text)
    if path.is_dir():
        return _below(path)
    if os.path.lexists(path):
        if path.suffix.lower() in TABLE_SUFFIXES:
            return _of_table(path, root or path.parent)
        return iter((_photo(path),))
    if glob.has_magic(str(path)):
        return _fitting(path)
    raise UserError(f"{printable(path)} can't be opened: No such file or directory")


def _photo(path: Path | str, problem: str = "") -> Photo:
    return Photo(escaped(os.fspath(path)), Path(path), problem)


def _below(folder: Path) -> Iterator[Photo]:
    for name in found.walk(folder):
        if found.is_photo(name.rpartition("/")[2]):
            yield _photo(folder / name)


def _of_table(path: Path, root: Path) -> Iterator[Photo]:
    below = table.PhotosBelow(root)
    for name in table.photo_cells(path, root):
        try:
            # Asked of the disk first: the names of all folders may not fit into memory.
            is_there = table.stays_below(name) and (root / name).is_file()
            file = name if is_there else below.find(name)
        except (OSError, ValueError, UserError) as error:
            yield _photo(root / name, str(error))
            continue
        if file is None:
            yield _photo(root / name, f"there is no such photo below {printable(root)}")
        else:
            yield _photo(root / file)


def _fitting(pattern: Path) -> Iterator[Photo]:
    anchor, *parts = pattern.parts if pattern.is_absolute() else ("", *pattern.parts)
    for path in _matches(anchor, parts):
        if found.is_photo(os.path.basename(path)):
            yield _photo(path)


def _matches(folder: str, patterns: Sequence[str]) -> Iterator[str]:
    """The files that patterns fit, part by part; `**` is any number of folders, even none.

    Names that begin with a dot fit only a pattern that does, and `**` follows no links.
    """
    first, *rest = patterns
    while first == "**" and rest[:1] == ["**"]:
        first, *rest = rest
    if rest and not glob.has_magic(first):
        inner = os.path.join(folder, first)
        if os.path.isdir(inner):
            yield from _matches(inner, rest)
        return
    folders, files = found.list_folder(folder or ".")
    if first == "**":
        yield from _matches(folder, rest or ["*"])
        inside = [os.path.join(folder, name) for name in folders if name[0] != "."]
        for inner in inside:
            if not os.path.islink(inner):
                yield from _matches(inner, patterns)
    elif rest:
        for name in _called(folders, first):
            yield from _matches(os.path.join(folder, name), rest)
    else:
        yield from (os.path.join(folder, name) for name in _called(files, first))


def _called(names: Sequence[str], pattern: str) -> list[str]:
    shows_hidden = pattern.startswith(".")
    return [
        name
        for name in names
        if (shows_hidden or name[0] != ".") and fnmatch.fnmatchcase(name, pattern)
    ]
