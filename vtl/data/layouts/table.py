"""A table of labels: CSV, TSV or with semicolons, a row a photo.

One column names the photos, below the data root. The labels stand in a column a class (1/0, yes/no,
true/false, blank or ? where it is not known), or in one column that lists a photo's classes.
Columns `split` and `group` may say which photos belong where and together.
"""

import csv
import functools
import io
import itertools
import math
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import NamedTuple, NoReturn, Protocol

import numpy as np

from vtl.data import corrected
from vtl.data.layouts import found
from vtl.data.layouts.found import Found
from vtl.data.photo_files import without_suffix
from vtl.data.split import OneHot, every
from vtl.errors import UserError
from vtl.untrusted import open_plain, printable, reading

MAX_BYTES = 1 << 32
"""Of a table: a million rows of a thousand columns of flags are half of it."""

MAX_LABELS = 1 << 34
"""Photos times classes."""

MAX_COLUMNS, MAX_HEADER = 100_000, 1 << 24
"""Of the first line: its names, and its characters."""

DELIMITERS = (",", "\t", ";", "|")
SEPARATORS = (";", "|", ",")
"""Of labels within a cell; what stands between columns is none unless it is quoted."""

PHOTO_COLUMNS = (
    *("photo", "image", "file", "filename", "path", "photos", "images", "files", "img"),
    *("file_name", "file name", "image_path", "filepath", "file_path", "image_name"),
)
LABEL_COLUMNS = ("labels", "label", "classes", "class", "tags", "category", "categories")
SPLIT_COLUMNS, GROUP_COLUMNS = ("split", "set", "subset"), ("group", "groups")
"""What columns are called, in small letters."""

YES, NO = ("1", "1.0", "yes", "true", "y", "t"), ("0", "0.0", "no", "false", "n", "f")
UNKNOWN = ("", "?", "na", "n/a", "nan", "none", "null", "unknown")
"""What a cell of a class's column holds, in small letters."""

PRESENT, ABSENT, DIFFICULT, NOT_KNOWN = range(4)
FLAGS: dict[str, dict[str, int]] = {
    "yes_no": dict.fromkeys(YES, PRESENT)
    | dict.fromkeys(NO, ABSENT)
    | dict.fromkeys(UNKNOWN, NOT_KNOWN),
    "voc": {"1": PRESENT, "-1": ABSENT, "0": DIFFICULT} | dict.fromkeys(UNKNOWN, NOT_KNOWN),
}
"""What cells mean: as people write them, or as VOC's class files."""

_ROWS_SEEN_FIRST = 200


class Columns(NamedTuple):
    """Where things stand: numbers of columns, and `classes` with their names."""

    photo: int
    labels: int | None
    classes: dict[str, int]
    split: int | None
    group: int | None


def read(path: Path, root: Path, *, flags: str = "yes_no", separator: str = "") -> Found:
    """Read the table at `path`, whose photos lie below `root`.

    `flags` is one of FLAGS; `separator` is what stands between a photo's labels: "" finds it, and
    "none" takes each cell as one label.

    Raises:
        UserError: it is no such table, a cell means nothing, or a photo is missing, there twice,
            outside of `root` or not the only one of its name.
    """
    with opened(path) as text:
        return _read(path, text, root, flags, separator)


def photo_cells(path: Path, root: Path) -> Iterator[str]:
    """What each row of the table at `path` calls its photo, as the rows come; labels may be absent.

    Raises:
        UserError: it is no table, or no column names photos.
    """
    with opened(path) as text:
        rows = rows_in(path, text)
        _, header = next(rows, (0, []))
        first = list(itertools.islice(rows, _ROWS_SEEN_FIRST))
        names = [found.letters(name.strip()) for name in header]
        rest = list(range(len(names)))
        column = _take_photo_column(path, names, rest, [row for _, row in first], root)
        for line, row in itertools.chain(first, rows):
            yield _fitted(path, line, row, len(header))[column].strip()


@contextmanager
def opened(path: Path) -> Iterator[io.TextIOWrapper]:
    """The text of the table at `path`; UserError if it is none."""
    with open_plain(path, max_bytes=MAX_BYTES) as file, reading(path):
        try:
            yield io.TextIOWrapper(file, encoding=_encoding(file), errors="strict", newline="")
        except UnicodeError:
            raise UserError(f"{printable(path)} is not UTF-8 text: save it as UTF-8") from None


def _encoding(file: io.BufferedReader) -> str:
    start = file.peek(2)[:2]
    return "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _read(path: Path, text: io.TextIOWrapper, root: Path, flags: str, separator: str) -> Found:
    rows = rows_in(path, text)
    _, header = next(rows, (0, []))
    if not header:
        raise UserError(f"{printable(path)} is empty")
    first = list(itertools.islice(rows, _ROWS_SEEN_FIRST))
    if not first:
        raise UserError(f"{printable(path)} has a first line with names of columns, and no photo")
    columns, notes = columns_in(path, header, [row for _, row in first], root)
    written: list[str] = []
    lines: list[int] = []
    splits: list[str] = []
    groups: list[str] = []
    cells: _Cells = (
        _FlagCells(path, columns.classes, flags)
        if columns.labels is None
        else _LabelCells(path, columns.labels, separator)
    )
    width = len(header)
    for line, row in itertools.chain(first, rows):
        if len(row) != width:
            row = _fitted(path, line, row, width)
        written.append(row[columns.photo].strip())
        lines.append(line)
        cells.add(line, row)
        if columns.split is not None:
            splits.append(found.split_name(row[columns.split]))
        if columns.group is not None:
            groups.append(row[columns.group].strip())
    labels, label_mask, difficult, classes = cells.all()
    notes += cells.notes + found.check_classes(classes, path) + corrected.notes(path)
    names = _photos(path, root, written, lines)
    if blank := [line for line, split in zip(lines, splits, strict=False) if not split]:
        raise UserError(f"{printable(path)}, line {blank[0]}: the split is blank: name one")
    return Found(
        root,
        names,
        labels,
        label_mask,
        difficult,
        classes,
        splits=splits or None,
        groups=groups or None,
        notes=notes,
    )


def rows_in(path: Path, text: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
    """The number of the line at which each row ends, and its cells; blank rows are left out."""
    line = ""
    while not line.strip("\r\n\t ,;|"):
        line = text.readline(MAX_HEADER)
        if not line:
            return
    reader = csv.reader(itertools.chain([line], text), delimiter=delimiter_of(line), strict=True)
    try:
        for row in reader:
            if any(map(str.strip, row)):
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(
            f"{printable(path)}, line {reader.line_num}: {error}\nAre its quotation marks paired?"
        ) from error


def delimiter_of(line: str) -> str:
    """What stands between the columns that the first line names."""
    return max(DELIMITERS, key=lambda delimiter: _num_cells(line, delimiter))


def _num_cells(line: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=delimiter)))
    except csv.Error:  # all of a long line is no cell
        return 0


def _fitted(path: Path, line: int, row: list[str], width: int) -> list[str]:
    """A row as wide as the header: cells at the end may be missing, or blank ones too many."""
    if any(map(str.strip, row[width:])):
        raise UserError(
            f"{printable(path)}, line {line}: it has {len(row)} cells, and the first line names "
            f"{width} columns"
        )
    return row[:width] + [""] * (width - len(row))


def columns_in(
    path: Path, header: Sequence[str], rows: Sequence[list[str]], root: Path
) -> tuple[Columns, list[str]]:
    """Which column is which, by its name or else its content; and notes of what isn't used."""
    shown = printable(path)
    names = [found.letters(name.strip()) for name in header]
    if len(names) > MAX_COLUMNS:
        raise UserError(f"{shown} has {len(names):,} columns, and at most {MAX_COLUMNS:,} can be")

    def cells(column: int) -> list[str]:
        return _cells_of(rows, column)

    rest = [
        column
        for column, name in enumerate(names)
        if not _is_index(name, cells(column)) and (name or any(cells(column)))
    ]
    twice = [name for name, count in Counter(names[c] for c in rest).items() if count > 1]
    if twice:
        raise UserError(f"{shown}: two columns are called {printable(twice[0], 60)!r}: rename one")

    photo = _take_photo_column(path, names, rest, rows, root)

    def take(known: Sequence[str]) -> int | None:
        return _take(known, names, rest)

    split, group = take(SPLIT_COLUMNS), take(GROUP_COLUMNS)
    labels = take(LABEL_COLUMNS)
    if not rest and labels is None:
        raise UserError(
            f"{shown} has no labels beside the photos\n"
            "Add a column a class with 1 and 0, or one called labels."
        )
    if labels is None and len(rest) == 1 and not _are_flags(cells(rest[0])):
        labels = rest.pop()
    if blank := [column for column in rest if not names[column]]:
        raise UserError(f"{shown}: column {blank[0] + 1} has no name")
    notes = []
    if labels is not None and rest:
        notes.append(
            f"labels are those of column {printable(names[labels], 60)}; columns not used: "
            f"{_few([names[column] for column in rest])}"
        )
    classes = {} if labels is not None else {names[column]: column for column in rest}
    return Columns(photo, labels, classes, split, group), notes


def _cells_of(rows: Sequence[list[str]], column: int) -> list[str]:
    return [row[column].strip() if column < len(row) else "" for row in rows]


def _take(known: Sequence[str], names: Sequence[str], rest: list[int]) -> int | None:
    """The first column of a known name, which is then no longer in `rest`."""
    by_name = {names[column].lower(): column for column in rest}
    column = next((by_name[name] for name in known if name in by_name), None)
    if column is not None:
        rest.remove(column)
    return column


def _take_photo_column(
    path: Path, names: Sequence[str], rest: list[int], rows: Sequence[list[str]], root: Path
) -> int:
    """The column that names photos, by its name or else its content; `rest` is then without it."""
    if (by_name := _take(PHOTO_COLUMNS, names, rest)) is not None:
        return by_name
    in_root = {without_suffix(name) for name in found.list_folder(root)[1]}

    def names_photos(column: int) -> bool:
        some = [cell for cell in _cells_of(rows, column) if cell]
        are_photos = [
            found.is_photo(cell) or (cell in in_root and not _is_flag(cell)) for cell in some
        ]
        return bool(some) and 2 * sum(are_photos) > len(some)

    named = [column for column in rest if names_photos(column)]
    if len(named) == 1:
        rest.remove(named[0])
        return named[0]
    what = "several columns name files" if named else "no column names photos"
    if len(names) == 1:
        what = "it has one column alone"
    raise UserError(
        f"{printable(path)}: {what}; its columns are {_few(names)}\n"
        "Call the one with the photos' files, below data.root, photo."
    )


def _is_index(name: str, cells: Sequence[str]) -> bool:
    """Whether it is the column of row numbers that pandas writes."""
    is_unnamed = not name or name.startswith("Unnamed: ")
    return is_unnamed and all(cell.isdecimal() for cell in cells)


def _are_flags(cells: Sequence[str]) -> bool:
    return all(map(_is_flag, cells))


def _is_flag(cell: str) -> bool:
    return any(cell.lower() in flags for flags in FLAGS.values())


Parsed = tuple[np.ndarray | OneHot, np.ndarray, np.ndarray, tuple[str, ...]]
"""labels, label mask and difficult flags [N, C], and the C classes."""


class _Cells(Protocol):
    """What collects the labels of a table, row by row."""

    notes: list[str]

    def add(self, line: int, row: list[str]) -> None:
        """The row of one photo."""

    def all(self) -> Parsed:
        """Those of all rows, once."""


class _FlagCells:
    """Rows with a column a class."""

    def __init__(self, path: Path, columns: dict[str, int], flags: str):
        self.notes: list[str] = []
        self._path = path
        self._columns = columns
        self._meaning = FLAGS[flags]
        self._flags = flags
        self._cells = bytearray()

    def add(self, line: int, row: list[str]) -> None:
        """The row of one photo."""
        meaning = self._meaning
        try:
            self._cells += bytes([meaning[row[c].strip().lower()] for c in self._columns.values()])
        except KeyError:
            self._refuse(line, row)
        if len(self._cells) > MAX_LABELS:
            raise UserError(f"{printable(self._path)} has more than {MAX_LABELS:,} labels")

    def _refuse(self, line: int, row: list[str]) -> NoReturn:
        name, cell = next(
            (name, row[column].strip())
            for name, column in self._columns.items()
            if row[column].strip().lower() not in self._meaning
        )
        allowed = "1, 0, or blank (unknown)" if self._flags == "yes_no" else "1, -1, 0 or blank"
        way_out = f"Write {allowed}, or remove that column."
        if cell == "-1":
            way_out = "If it is VOC's (1 present, -1 absent, 0 difficult): --config.data.flags=voc"
        raise UserError(
            f"{printable(self._path)}, line {line}: column {printable(name, 60)} holds "
            f"{printable(cell, 40)!r}, neither yes nor no\n{way_out}"
        )

    def all(self) -> Parsed:
        """Those of all rows, once."""
        cells = np.frombuffer(self._cells, np.uint8).reshape(-1, len(self._columns))
        labels = (cells == PRESENT).view(np.uint8)
        label_mask = every(1, cells.shape)
        if (cells == NOT_KNOWN).any():
            label_mask = (cells != NOT_KNOWN).view(np.uint8)
        difficult = every(0, cells.shape)
        if self._flags == "voc":
            difficult = (cells == DIFFICULT).view(np.uint8)
        return labels, label_mask, difficult, tuple(self._columns)


class _LabelCells:
    """Rows with one cell that lists a photo's labels; equal cells are kept once."""

    def __init__(self, path: Path, column: int, separator: str):
        self.notes: list[str] = []
        self._path = path
        self._column = column
        self._separator = separator
        self._cells: list[str] = []
        self._kinds: dict[str, str] = {}

    def add(self, line: int, row: list[str]) -> None:
        """The row of one photo."""
        del line
        cell = row[self._column]
        self._cells.append(self._kinds.setdefault(cell, cell))

    def all(self) -> Parsed:
        """Those of all rows, once."""
        separator = self._separator or self._found_separator()
        lists = {
            cell: [cell.strip()]
            if separator == "none"
            else list(dict.fromkeys(filter(None, map(str.strip, cell.split(separator)))))
            for cell in self._kinds
        }
        known = {
            cell: [] if names == [""] else [found.letters(name) for name in names]
            for cell, names in lists.items()
            if cell.strip() != "?"
        }
        classes = tuple(sorted({name for names in known.values() for name in names}))
        if "?" in classes:
            cell = next(cell for cell, names in known.items() if "?" in names)
            raise UserError(
                f"{printable(self._path)}: {printable(cell, 60)!r} lists ? beside labels\n"
                "Write ? alone where it is not known, or a column a class."
            )
        if not classes:
            raise UserError(f"{printable(self._path)}: no photo has a label")
        columns = {name: column for column, name in enumerate(classes)}
        shape = len(self._cells), len(classes)
        if math.prod(shape) > MAX_LABELS:
            raise UserError(
                f"{printable(self._path)} has {len(classes):,} classes: is it the column of labels?"
            )
        is_known = np.array([cell in known for cell in self._cells], bool)
        blank = sum(not known.get(cell, ["?"]) for cell in self._cells)
        if blank:
            self.notes.append(
                f"{blank} photos have no label: they count as photos of none of the classes; write "
                "? where it is not known"
            )
        difficult, label_mask = every(0, shape), every(1, shape)
        if not is_known.all():
            label_mask = np.repeat(is_known[:, None].astype(np.uint8), shape[1], axis=1)
        if is_known.all() and all(len(names) == 1 for names in known.values()):
            number_of = {cell: columns[names[0]] for cell, names in known.items()}
            numbers = np.fromiter((number_of[cell] for cell in self._cells), np.int32, shape[0])
            return OneHot(numbers, shape[1]), label_mask, difficult, classes
        labels = np.zeros(shape, np.uint8)
        columns_of = {cell: [columns[name] for name in names] for cell, names in known.items()}
        for row, cell in enumerate(self._cells):
            labels[row, columns_of.get(cell, [])] = 1
        return labels, label_mask, difficult, classes

    def _found_separator(self) -> str:
        used = [s for s in SEPARATORS if any(s in cell for cell in self._kinds)]
        if len(used) > 1:
            cell = next(cell for cell in self._kinds if used[1] in cell)
            raise UserError(
                f"{printable(self._path)}: labels hold both {used[0]!r} and {used[1]!r}, as in "
                f"{printable(cell, 60)!r}\n"
                "Say what stands between two labels with --config.data.separator, such as none."
            )
        return used[0] if used else "none"


def _photos(path: Path, root: Path, written: Sequence[str], lines: Sequence[int]) -> list[str]:
    """The file of each photo that the table names, as a path below `root`."""
    photos = PhotosBelow(root)
    names, missing = [], []
    for line, text in zip(lines, written, strict=True):
        try:
            name = text if photos.holds(text) else photos.find(text)
        except UserError as error:
            raise UserError(f"{printable(path)}, line {line}: {error}") from None
        if name is None:
            missing.append((line, text))
        else:
            names.append(name)
    if missing:
        line, text = missing[0]
        raise UserError(
            f"{printable(path)}: {len(missing)} of {len(written)} photos are not below "
            f"{printable(root)}; the first is {printable(text, 80)!r}, line {line}\n"
            "Give the folder that the names start from with --config.data.root=FOLDER."
        )
    if len(set(names)) < len(names):
        first: dict[str, int] = {}
        for line, name in zip(lines, names, strict=True):
            if name in first:
                raise UserError(
                    f"{printable(path)}: {printable(name, 80)} is there twice, in lines "
                    f"{first[name]} and {line}: keep one"
                )
            first[name] = line
    return names


def stays_below(name: str) -> bool:
    """Whether a path is written plainly, and leads to nothing outside of where it starts."""
    is_plain = not name or posixpath.normpath(name) == name
    return is_plain and name != "." and not name.startswith(("/", ".."))


class PhotosBelow:
    """The files below a folder, listed as they are asked for."""

    def __init__(self, root: Path):
        self._root = root
        self._listed: dict[str, frozenset[str]] = {}
        self._by_meaning: dict[str, dict[str, list[str]]] = {}

    def holds(self, name: str) -> bool:
        """Whether there is a file of exactly that path below the folder."""
        folder, _, base = name.rpartition("/")
        if folder not in self._listed:
            self._listed[folder] = self._list(folder)
        return base in self._listed[folder]

    def _list(self, folder: str) -> frozenset[str]:
        if not stays_below(folder):
            return frozenset()
        where = self._root / folder
        return frozenset(found.list_folder(where)[1] if where.is_dir() else ())

    def find(self, text: str) -> str | None:
        """The one file that `text` means otherwise; None if there is none.

        It may lack its ending, or the folders that it lies in, have its accents stored another way,
        backslashes, or be a whole path.

        Raises:
            UserError: it is blank, several files fit, or it leads out of the folder.
        """
        if not text:
            raise UserError("the photo's file is blank")
        shown = printable(text, 80)
        name = text if PureWindowsPath(text).drive == "" else ""
        name = name.replace("\\", "/")
        if name.startswith("/"):
            name = os.path.relpath(name, os.path.abspath(self._root)).replace(os.sep, "/")
        name = posixpath.normpath(name) if name else ".."
        if name == ".." or name.startswith("../"):
            raise UserError(f"{shown!r} leads out of {printable(self._root)}")
        if self.holds(name):
            return name
        folder, _, base = name.rpartition("/")
        prefix = f"{folder}/" if folder else ""
        fits = [f"{prefix}{file}" for file in self._meant(folder).get(found.letters(base), ())]
        if not fits and not folder:
            fits = self._anywhere.get(base, []) or self._anywhere.get(found.letters(base), [])
        if len(fits) > 1:
            two = " and ".join(printable(file, 80) for file in sorted(fits)[:2])
            raise UserError(f"{shown!r} may be {two}: name one")
        return fits[0] if fits else None

    def _meant(self, folder: str) -> dict[str, list[str]]:
        """What names the files of a listed folder: their letters, with and without an ending."""
        if folder not in self._by_meaning:
            meant: dict[str, list[str]] = {}
            for file in self._listed[folder]:
                name = found.letters(file)
                for written in {name, without_suffix(name)}:
                    meant.setdefault(written, []).append(file)
            self._by_meaning[folder] = meant
        return self._by_meaning[folder]

    @functools.cached_property
    def _anywhere(self) -> dict[str, list[str]]:
        """The name of each photo in any folder, with and without its ending -> where it lies."""
        places: dict[str, list[str]] = {}
        for path in found.walk(self._root):
            base = found.letters(path.rpartition("/")[2])
            if found.is_photo(base):
                for name in {base, without_suffix(base)}:
                    places.setdefault(name, []).append(path)
        return places


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if names[5:] else ""
    return ", ".join(printable(name, 40) or "''" for name in names[:5]) + more
