"""Reading and writing by a table: one row says where one kind of tensor goes, and how it turns."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vtl.errors import UserError
from vtl.untrusted import printable
from vtl.weights.layouts import names
from vtl.weights.layouts.names import Tensors


class Turn(NamedTuple):
    """From their axes to ours, and back."""

    dimensions: int
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


VECTOR = Turn(1, lambda t: t, lambda t: t)
DENSE = Turn(2, lambda t: t.T, lambda t: t.T)
"""OI -> IO."""
CONV = Turn(4, lambda t: t.transpose(2, 3, 1, 0), lambda t: t.transpose(3, 2, 0, 1))
"""OIHW -> HWIO."""


class Row(NamedTuple):
    """Where one kind of tensor goes."""

    theirs: str
    """A regex of the tensor's whole name."""
    ours: str
    r"""Our flat name, with \1 for the regex's first group."""
    turn: Turn = VECTOR
    part: tuple[int, int] = (0, 1)
    """(i, n): the i-th of n parts, side by side along our last axis."""


def renamed(
    tensors: dict[str, np.ndarray],
    table: Sequence[Row],
    *,
    kind: str,
    path: object,
    ignored: re.Pattern[str] = names.IGNORED,
) -> Tensors:
    """Tensors under our names and in our layout; each is used once, or its name is ignored.

    Raises:
        UserError: a tensor that no row is for, that is misshapen, there twice, or a part alone.
    """
    rows = [(re.compile(row.theirs), row) for row in table]
    parts: dict[str, dict[int, np.ndarray]] = {}
    counts: dict[str, int] = {}
    unknown = []
    for key, tensor in tensors.items():
        if ignored.fullmatch(key):
            continue
        matches = ((pattern.fullmatch(key), row) for pattern, row in rows)
        match, row = next((found for found in matches if found[0]), (None, None))
        if match is None or row is None:
            unknown.append(key)
            continue
        names.refuse_misshapen(key, np.shape(tensor), row.turn.dimensions, path)
        ours, (place, count) = match.expand(row.ours), row.part
        of_ours = parts.setdefault(ours, {})
        if place in of_ours:
            names.refuse_twice(ours, key, path)
        counts[ours] = count
        with np.errstate(over="ignore"):  # what is beyond float32 is infinite, and refused as such
            of_ours[place] = row.turn.to_ours(np.asarray(tensor, np.float32))
    names.refuse_unknown(unknown, kind, len(parts), path)
    return {ours: _joined(ours, found, counts[ours], path) for ours, found in parts.items()}


def _joined(ours: str, parts: dict[int, np.ndarray], count: int, path: object) -> np.ndarray:
    if len(parts) != count or len({part.shape for part in parts.values()}) > 1:
        raise UserError(
            f"{path}: {printable(ours, 80)} is made of {count} tensors of one shape, and "
            f"{len(parts)} are there, of {[parts[i].shape for i in sorted(parts)]}"
        )
    return parts[0] if count == 1 else np.concatenate([parts[i] for i in range(count)], axis=-1)


def published(tensors: Tensors, table: Sequence[tuple[str, str, Turn]]) -> dict[str, np.ndarray]:
    r"""Ours under their names, by (regex of our flat name, their name with \1, their turn).

    Raises:
        KeyError: no row is for a tensor.
    """
    rows = [(re.compile(ours), theirs, turn) for ours, theirs, turn in table]
    found = {}
    for key, tensor in tensors.items():
        for pattern, theirs, turn in rows:
            if match := pattern.fullmatch(key):
                found[match.expand(theirs)] = np.ascontiguousarray(turn.to_theirs(tensor))
                break
        else:
            raise KeyError(key)
    return found
