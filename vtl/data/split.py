"""What a split is: the photos of one part of a data set, and their labels."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class OneHot:
    """Flags [N, C] uint8 of which each row has a single 1, held as the number [N] of its column.

    Rows of it, and all of it, become arrays when they are asked for.
    """

    numbers: np.ndarray
    num_classes: int

    @property
    def shape(self) -> tuple[int, int]:
        """(N, C)."""
        return len(self.numbers), self.num_classes

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        numbers = self.numbers[rows]
        flags = np.zeros((len(numbers), self.num_classes), np.uint8)
        flags[np.arange(len(numbers)), numbers] = 1
        return flags

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


Flags = np.ndarray | OneHot
"""[N, C] of 0 and 1."""


@dataclass(frozen=True, eq=False)
class Split:
    """The photos of one split, in the order of its file, and their image-level labels.

    Attributes:
        ids: what the photos are called: VOC's ids, or the files' paths below the data root.
        labels: [N, C] uint8, 1 if an object of the class is in the photo.
        label_mask: [N, C] uint8, 0 where it is not known whether it is.
        difficult: [N, C] uint8, 1 if all objects of the class in the photo are marked difficult.
        ids_sha256: of the ids and their order, as `ids_sha256` computes it.
        groups: [N] which photos belong together, as a table says; () if nothing says so.
    """

    name: str
    ids: tuple[str, ...]
    paths: Sequence[Path]
    labels: Flags
    label_mask: np.ndarray
    difficult: np.ndarray
    classes: tuple[str, ...]
    ids_sha256: str
    groups: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, rows: np.ndarray) -> "Split":
        """Some of its photos, in a given order."""
        ids = tuple(self.ids[row] for row in rows)
        return dataclasses.replace(
            self,
            ids=ids,
            paths=[self.paths[row] for row in rows],
            labels=rows_of(self.labels, rows),
            label_mask=rows_of(self.label_mask, rows),
            difficult=rows_of(self.difficult, rows),
            ids_sha256=ids_sha256(ids),
            groups=tuple(self.groups[row] for row in rows) if self.groups else (),
        )

    @property
    def has_one_label_each(self) -> bool:
        """Whether every photo shows one class; in a devkit several can always be."""
        return isinstance(self.labels, OneHot)

    def positives(self) -> np.ndarray:
        """How many photos [C] are known to show each class."""
        if isinstance(self.labels, OneHot):
            return np.bincount(self.labels.numbers, minlength=self.labels.num_classes)
        return np.asarray(np.sum(self.labels & self.label_mask, axis=0, dtype=np.int64))


def one_hot_if_possible(labels: Flags, label_mask: np.ndarray, difficult: np.ndarray) -> Flags:
    """Labels [N, C] as `OneHot`, if each row is known, not difficult and has a single 1."""
    if isinstance(labels, OneHot):
        return labels
    if is_every(label_mask, 1) and is_every(difficult, 0) and (labels.sum(axis=1) == 1).all():
        return OneHot(labels.argmax(axis=1).astype(np.int32), labels.shape[1])
    return labels


def rows_of(flags: Any, rows: np.ndarray) -> Any:
    """Some rows of flags [N, C], held as the flags are."""
    if isinstance(flags, OneHot):
        return OneHot(flags.numbers[rows], flags.num_classes)
    if flags.strides[:1] == (0,):  # all alike, in no memory
        return np.broadcast_to(flags[:1], (len(rows), flags.shape[1]))
    return flags[rows]


def every(value: int, shape: tuple[int, int]) -> np.ndarray:
    """Flags [N, C] that are all the same, in no memory."""
    return np.broadcast_to(np.uint8(value), shape)


def is_every(flags: np.ndarray, value: int) -> bool:
    """Whether all flags [N, C] are the same."""
    if flags.size and flags.strides == (0, 0):
        return bool(flags[0, 0] == value)
    return bool((flags == value).all())


class PathsBelow(Sequence[Path]):
    """The paths of files below a folder, made as they are asked for: a Path takes much memory."""

    def __init__(self, root: Path, names: Sequence[str]):
        self._root, self._names = root, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return PathsBelow(self._root, self._names[place])
        return self._root / self._names[place]


def describe_splits(name: str, splits: dict[str, Split]) -> dict[str, Any]:
    """What results and features record about their data."""
    return {
        "name": name,
        "splits": {role: split.name for role, split in splits.items()},
        "ids_sha256": {role: split.ids_sha256 for role, split in splits.items()},
        "one_label_each": all(split.has_one_label_each for split in splits.values()),
    }


def ids_sha256(ids: Iterable[str]) -> str:
    """The sha256 of the ids joined by newlines, which depends on their order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()
