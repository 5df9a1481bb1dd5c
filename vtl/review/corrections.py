"""corrections.csv onto a table of labels: a new table, in which nothing else is changed."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtl.data.layouts import table
from vtl.data.layouts.found import letters
from vtl.data.photo_files import stem
from vtl.errors import UserError
from vtl.untrusted import no_formula, printable

COLUMNS = ("photo", "class", "label", "was")
VALUES = {"1": table.PRESENT, "0": table.ABSENT, "?": table.NOT_KNOWN}
SPELT = {"yes_no": {"1": "1", "0": "0", "?": "?"}, "voc": {"1": "1", "0": "-1", "?": "?"}}


class Correction(NamedTuple):
    """One answer; label and was are of VALUES."""

    line: int
    photo: str
    name: str
    label: str
    was: str


class Change(NamedTuple):
    """A label that the new table has otherwise."""

    line: int
    photo: str
    name: str
    was: str
    label: str

    def record(self) -> dict[str, Any]:
        """As `data.corrected` keeps it."""
        return {
            "line": self.line,
            "photo": self.photo,
            "class": self.name,
            "was": self.was,
            "label": self.label,
        }

    def __str__(self) -> str:
        photo, name = printable(self.photo, 120), printable(self.name, 60)
        return f"line {self.line}: {photo}: {name} {self.was} -> {self.label}"


class Applied(NamedTuple):
    """The new table, what changed, how many answers the table had, and what can't be said."""

    content: bytes
    changes: list[Change]
    num_confirmed: int
    left: list[str]


def read(path: Path) -> list[Correction]:
    """The answers in a file that the page saved, perhaps edited since.

    Raises:
        UserError: it is no such file, or answers one question in two ways.
    """
    found: dict[tuple[str, str], Correction] = {}
    with table.opened(path) as text:
        rows = table.rows_in(path, text)
        _, header = next(rows, (0, []))
        if tuple(name.strip().lower() for name in header) != COLUMNS:
            raise UserError(
                f"{printable(path)}: its columns are not {', '.join(COLUMNS)}\n"
                "Give the file that the page of `vtl review` saved."
            )
        for line, row in rows:
            if len(row) != len(COLUMNS):
                raise UserError(f"{printable(path)}, line {line}: it has {len(row)} cells, not 4")
            photo, name, label, was = row
            for value in (label.strip(), was.strip()):
                if value not in VALUES:
                    raise UserError(
                        f"{printable(path)}, line {line}: {printable(value, 40)!r} is none of 1, 0 "
                        "and ?"
                    )
            made = Correction(line, photo, name, label.strip(), was.strip())
            first = found.setdefault((photo, name), made)
            if first.label != made.label:
                raise UserError(
                    f"{printable(path)}, lines {first.line} and {line} contradict each other on "
                    f"{printable(photo, 80)}: keep one"
                )
    return list(found.values())


def applied(
    corrections: Sequence[Correction], path: Path, *, flags: str = "yes_no", separator: str = ""
) -> Applied:
    """The table at `path` with the corrections; cells that aren't corrected stay byte for byte.

    `flags` and `separator` as in `table.read`.

    Raises:
        UserError: it is no table, lacks a photo or a class, or a label is not what it was.
    """
    with table.opened(path) as text:
        encoding, whole = text.encoding, text.read()
        with path.open("rb") as file:
            has_mark = file.read(3) == b"\xef\xbb\xbf"
    records = list(table.rows_in(path, io.TextIOWrapper(io.BytesIO(whole.encode()), newline="")))
    if len(records) < 2:
        raise UserError(f"{printable(path)} has no photo")
    (_, header), *rows = records
    columns, _ = table.columns_in(path, header, [row for _, row in rows[:200]], path.parent)
    lines = [*io.StringIO(whole, newline="")]
    edited = _Edited(path, lines, header, columns, flags, separator, rows)
    for correction in sorted(corrections, key=lambda given: given.label == "1"):
        edited.correct(correction)  # what goes before what comes, where a cell has room for one
    new = "".join(lines).encode("utf-8" if encoding == "utf-8-sig" else encoding)
    return Applied((b"\xef\xbb\xbf" if has_mark else b"") + new, *edited.outcome())


class _Edited:
    """The lines of a table, of which some are changed."""

    def __init__(
        self,
        path: Path,
        lines: list[str],
        header: list[str],
        columns: table.Columns,
        flags: str,
        separator: str,
        rows: list[tuple[int, list[str]]],
    ):
        self._path, self._lines, self._columns, self._flags = path, lines, columns, flags
        first = next(line for line in lines if line.strip("\r\n\t ,;|"))
        self._delimiter = table.delimiter_of(first)
        self._rows: dict[int, list[str]] = {}
        by_name: dict[str, list[int]] = {}
        for line, row in rows:
            self._rows[line] = row + [""] * (len(header) - len(row))
            cell = row[columns.photo].strip().replace("\\", "/")
            for name in {letters(cell), stem(letters(cell))}:
                by_name.setdefault(name, []).append(line)
        self._by_name = by_name
        self._separator = separator or self._found_separator()
        self._changes: list[Change] = []
        self._left: list[str] = []
        self._num_confirmed = 0

    def outcome(self) -> tuple[list[Change], int, list[str]]:
        """Changes, the number of answers that change nothing, and what could not be written."""
        return sorted(self._changes), self._num_confirmed, self._left

    def correct(self, correction: Correction) -> None:
        """Change one label."""
        line = self._line_of(correction)
        if self._columns.labels is None:
            names = {no_formula(name): name for name in self._columns.classes}
            name = names.get(correction.name, correction.name)
            if name not in self._columns.classes:
                raise UserError(
                    f"{printable(self._path)} has no column {printable(name, 60)!r}, which the "
                    "corrections name"
                )
            column = self._columns.classes[name]
        else:
            column, name = self._columns.labels, self._class_of(correction)
        now = self._value(line, column, name)
        if now != correction.was:
            raise UserError(
                f"{printable(self._path)}, line {line}: {printable(name, 60)} is {now} there, and "
                f"was {correction.was} when it was reviewed\nThe corrections are of another table."
            )
        if correction.label == now:
            self._num_confirmed += 1
            return
        written = self._written(line, column, name, correction.label)
        if written is None:
            self._left.append(
                f"line {line}: {printable(correction.photo, 120)}: a cell of labels can't say that "
                f"only {printable(name, 60)} isn't known: left as it was"
            )
            return
        self._rows[line][column] = written
        self._replace(line, column, written)
        photo = self._rows[line][self._columns.photo]
        self._changes.append(Change(line, photo, name, now, correction.label))

    def _line_of(self, correction: Correction) -> int:
        photo = correction.photo
        plain = photo[1:] if photo[:1] == "'" and no_formula(photo[1:]) == photo else photo
        for name in (photo, plain, stem(photo), stem(plain)):
            lines = self._by_name.get(letters(name), [])
            if len(lines) == 1:
                return lines[0]
            if lines:
                raise UserError(
                    f"{printable(self._path)}: {printable(photo, 80)} may be in lines {lines[0]} "
                    f"and {lines[1]}"
                )
        raise UserError(f"{printable(self._path)} has no photo {printable(photo, 80)}")

    def _class_of(self, correction: Correction) -> str:
        """The class without the mark that keeps a spreadsheet from computing it."""
        name = correction.name
        plain = name[1:] if name[:1] == "'" and no_formula(name[1:]) == name else name
        assert self._columns.labels is not None
        known = {n for row in self._rows.values() for n in self._names(row[self._columns.labels])}
        return name if name in known else plain

    def _found_separator(self) -> str:
        if self._columns.labels is None:
            return "none"
        cells = [row[self._columns.labels] for row in self._rows.values()]
        used = [s for s in table.SEPARATORS if any(s in cell for cell in cells)]
        if len(used) > 1:
            raise UserError(
                f"{printable(self._path)}: labels hold both {used[0]!r} and {used[1]!r}\n"
                "Say what stands between two labels with --separator, such as none."
            )
        return used[0] if used else ""

    def _names(self, cell: str) -> list[str]:
        if self._separator in ("", "none"):
            return [letters(cell.strip())] if cell.strip() else []
        parts = map(str.strip, cell.split(self._separator))
        return [letters(part) for part in parts if part]

    def _value(self, line: int, column: int, name: str) -> str:
        cell = self._rows[line][column].strip()
        if self._columns.labels is not None:
            return "?" if cell == "?" else str(int(name in self._names(cell)))
        meaning = table.FLAGS[self._flags].get(cell.lower())
        return next((value for value, code in VALUES.items() if code == meaning), repr(cell))

    def _written(self, line: int, column: int, name: str, label: str) -> str | None:
        """The new cell; None if there is none that says so."""
        if self._columns.labels is None:
            return self._spelling(column, label)
        cell = self._rows[line][column]
        if label == "?":
            return None
        names = [] if cell.strip() == "?" else self._names(cell)
        names = [other for other in names if other != name] + ([name] if label == "1" else [])
        if self._separator == "none" and len(names) > 1:
            raise UserError(
                f"{printable(self._path)}, line {line}: with --separator=none a photo has one label"
            )
        if len(names) > 1:
            self._separator = self._separator or ";"  # no cell has one yet
        blank = " " if f"{self._separator} " in cell else ""
        return f"{self._separator}{blank}".join(names)

    def _spelling(self, column: int, label: str) -> str:
        """As the column itself writes it."""
        for row in self._rows.values():
            cell = row[column].strip()
            if cell and table.FLAGS[self._flags].get(cell.lower()) == VALUES[label]:
                return cell
        return SPELT[self._flags][label]

    def _replace(self, line: int, column: int, written: str) -> None:
        """Put the cell into the record that ends at a line."""
        first = line - 1
        while True:  # a quoted cell may go over several lines
            record = "".join(self._lines[first:line])
            cells = _raw_cells(record, self._delimiter)
            if cells is not None or first == 0:
                break
            first -= 1
        if cells is None:
            raise UserError(f"{printable(self._path)}, line {line} can't be taken apart")
        cells += [""] * (column + 1 - len(cells))
        ending = record[len(record.rstrip("\r\n")) :]
        quoted = re.search(rf'["\r\n{re.escape(self._delimiter)}]', written)
        cells[column] = '"' + written.replace('"', '""') + '"' if quoted else written
        self._lines[first:line] = [*[""] * (line - first - 1), self._delimiter.join(cells) + ending]


def _raw_cells(record: str, delimiter: str) -> list[str] | None:
    """The cells of a record as they are written; None if a quotation mark is not paired."""
    d = re.escape(delimiter)
    cell = re.compile(rf'("(?:[^"]|"")*"(?=$|{d})|(?!")[^{d}]*)({d}|$)')
    text, cells, place = record.rstrip("\r\n"), [], 0
    while True:
        match = cell.match(text, place)
        if match is None:
            return None
        cells.append(match[1])
        place = match.end()
        if not match[2]:
            return cells
