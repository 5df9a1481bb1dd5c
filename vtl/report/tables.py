"""The page's tables, which sort on click."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """What is shown, and the number that it sorts by; without one it sorts by its text."""

    text: Any
    value: float | None = None


class Table(NamedTuple):
    """Headings, and rows of as many cells; the first of a row is its name."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
