"""The labels that a run's files hold, and how many others there are now."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from vtl import schema
from vtl.errors import UserError
from vtl.untrusted import read_npz


class Labelled(Protocol):
    """N photos of C classes: a split, or what a file says of one."""

    @property
    def ids(self) -> Sequence[str]:
        """[N]."""

    @property
    def classes(self) -> Sequence[str]:
        """[C]."""

    @property
    def labels(self) -> Any:
        """[N, C]: an array, or what becomes one."""

    @property
    def label_mask(self) -> np.ndarray | None:
        """[N, C]; None if all labels are known."""


class Labels(NamedTuple):
    """As `Labelled`."""

    ids: Sequence[str]
    classes: Sequence[str]
    labels: np.ndarray
    label_mask: np.ndarray | None


def changed(before: Labelled, now: Labelled) -> tuple[int, int] | None:
    """How many labels differ, of how many photos that both have; known and not known differ.

    None if the classes differ, or no photo is in both.
    """
    if tuple(before.classes) != tuple(now.classes):
        return None
    row_of = {photo: row for row, photo in enumerate(now.ids)}
    rows = [row for row, photo in enumerate(before.ids) if photo in row_of]
    if not rows:
        return None
    matched = [row_of[before.ids[row]] for row in rows]
    differ = _with_unknown(before, rows) != _with_unknown(now, matched)
    return int(differ.sum()), int(differ.any(axis=1).sum())


def _with_unknown(of: Labelled, rows: list[int]) -> np.ndarray:
    """Labels [N, C] of some rows, 2 where one isn't known."""
    labels = of.labels[np.array(rows)]
    if of.label_mask is None:
        return np.asarray(labels)
    return np.where(of.label_mask[rows] == 1, labels, 2)


def changed_since(run: Path, now: Mapping[str, Labelled]) -> str:
    """In words, how many labels a run's files have otherwise than `now`, by role; "" if unknown."""
    num_labels = num_photos = 0
    for role, its in now.items():
        with suppress(UserError):  # a file that can't be read says nothing
            before = _stored(run, role)
            labels, photos = (before and changed(before, its)) or (0, 0)
            num_labels, num_photos = num_labels + labels, num_photos + photos
    if not num_labels:
        return ""
    return f"{num_labels:,} labels of {num_photos:,} photos have changed since."


def _stored(run: Path, role: str) -> Labels | None:
    """Those of a split in a run's scores, features or a learning curve's labels."""
    for name in (f"scores_{role}.npz", f"labels_{role}.npz"):
        if (run / name).exists():
            return _read(run / name, "ids", "labels", "label_mask")
    for path in run.glob("DF_*.npz"):
        return _read(path, f"ids_{role}", f"Y_{role}", f"mask_{role}")
    return None


def _read(path: Path, ids: str, labels: str, label_mask: str) -> Labels:
    with schema.of_file(path):
        names = (ids, "classes", labels, label_mask)
        arrays = read_npz(path, names=names, inside=path.parent)
        photos, classes = schema.texts(arrays, ids, "N"), schema.texts(arrays, "classes", "C")
        shape = len(photos), len(classes)
        known = schema.flags(arrays, label_mask, shape) if label_mask in arrays else None
        return Labels(photos, classes, schema.flags(arrays, labels, shape), known)
