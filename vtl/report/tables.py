"""The page's tables, which sort on click."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """What a cell shows, and the number that it sorts by; without one it sorts by its text."""

    text: Any
    value: float | None = None


class Table(NamedTuple):
    """Headings, and rows of one cell for each heading; a row's first cell names it."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
