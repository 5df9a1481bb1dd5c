"""The rows of a file of predictions: CSV, or JSON lines. Each row is one line."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from vtl.errors import UserError, escaped
from vtl.predict.predictor import Prediction
from vtl.untrusted import printable

OWN_COLUMNS = ("file", "labels", "error")

_FORMULA = ("=", "+", "-", "@")
"""A spreadsheet computes a cell that begins so."""


class Row(NamedTuple):
    """What a row that was written says of its photo, and of what was wrong with it."""

    file: str
    error: str


class Rows(Protocol):
    """How predictions become lines of a file, and back."""

    columns: tuple[str, ...]

    def header(self) -> bytes:
        """The first line, if there is one."""

    def file(self, name: str) -> str:
        """How a photo's name is written."""

    def line(self, prediction: Prediction) -> bytes:
        """The line of one photo."""

    def read(self, line: bytes) -> Row:
        """A line that was written; ValueError if it wasn't written so."""


def columns(classes: Sequence[str]) -> tuple[str, ...]:
    """What each class is called in the file: by its name, where that is right.

    A name that is there twice, is that of a column of ours, or would be computed by a spreadsheet,
    has the class's number before it: `class 3: labels`. All have, if that is a name itself.
    """
    names = [escaped(name) for name in classes]
    count = Counter(names)
    numbered = [f"class {number}: {name}" for number, name in enumerate(names)]
    called = [
        longer
        if count[name] > 1 or name.casefold() in OWN_COLUMNS or not name or name[0] in _FORMULA
        else name
        for name, longer in zip(names, numbered, strict=True)
    ]
    return tuple(called if len(set(called)) == len(called) else numbered)


class CsvRows:
    """`file`, a column a class, `labels` and `error`.

    A number is the shortest that is the same in float32. In `labels` the names are joined by `;`,
    and quoted as in a CSV where they hold one.
    """

    def __init__(self, classes: Sequence[str]):
        self.columns = columns(classes)

    def header(self) -> bytes:
        """The names of the columns."""
        return _csv_line(["file", *self.columns, "labels", "error"])

    def file(self, name: str) -> str:
        """The name; `./=1.jpg` is the same file as `=1.jpg`, and no formula."""
        return f"./{name}" if name.startswith(_FORMULA) else name

    def line(self, prediction: Prediction) -> bytes:
        """The line of one photo."""
        name, numbers, answers, problem = prediction
        if numbers is None or answers is None:
            cells = [""] * (len(self.columns) + 1)
            return _csv_line([self.file(name), *cells, self.file(_one_line(problem))])
        given = [self.columns[column] for column in np.flatnonzero(answers)]
        labels = _csv_line(given, ";").decode().rstrip("\n") if given else ""
        return _csv_line([self.file(name), *numbers.astype(str).tolist(), labels, ""])

    def read(self, line: bytes) -> Row:
        """A line that was written."""
        try:
            cells = next(csv.reader([line.decode()], strict=True))
        except csv.Error as error:
            raise ValueError("it is no CSV") from error
        if len(cells) != len(self.columns) + 3:
            raise ValueError(f"it has {len(cells)} cells")
        return Row(cells[0], cells[-1])


class JsonRows:
    """{"file", "probabilities": {class: number}, "labels": [class], "error": null or text}."""

    def __init__(self, classes: Sequence[str]):
        self.columns = columns(classes)

    def header(self) -> bytes:
        """None."""
        return b""

    def file(self, name: str) -> str:
        """The name."""
        return name

    def line(self, prediction: Prediction) -> bytes:
        """The line of one photo."""
        name, numbers, answers, problem = prediction
        row: dict[str, object] = {"file": name, "probabilities": {}, "labels": [], "error": None}
        if numbers is None or answers is None:
            row["error"] = _one_line(problem)
        else:
            decimals = map(float, numbers.astype(str).tolist())
            row["probabilities"] = dict(zip(self.columns, decimals, strict=True))
            row["labels"] = [self.columns[column] for column in np.flatnonzero(answers)]
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    def read(self, line: bytes) -> Row:
        """A line that was written."""
        row = json.loads(line)
        if not isinstance(row, dict) or not isinstance(row.get("file"), str):
            raise ValueError("it is no row of predictions")
        return Row(row["file"], row.get("error") or "")


FORMATS: dict[str, type[CsvRows] | type[JsonRows]] = {".csv": CsvRows, ".jsonl": JsonRows}
"""Suffix of the output -> its rows."""


def check_suffix(output: Path) -> None:
    """UserError unless the output's name says what its rows are."""
    if output.suffix.lower() not in FORMATS:
        raise UserError(
            f"{printable(output)}: the name of the predictions must end in {' or '.join(FORMATS)}"
        )


def rows_for(output: Path, classes: Sequence[str]) -> Rows:
    """The rows of the output, by its suffix."""
    return FORMATS[output.suffix.lower()](classes)


def _one_line(problem: str) -> str:
    return " ".join(problem.splitlines())


def _csv_line(cells: Sequence[str], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", delimiter=delimiter).writerow(cells)
    return text.getvalue().encode()
