"""One line of a verdict."""

from typing import Literal, NamedTuple

Kind = Literal["good", "note", "fault"]


class Finding(NamedTuple):
    """One line of the verdict."""

    kind: Kind
    text: str
