"""What a split is: the photos of one part of a data set, and their labels."""

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Split:
    """The photos of one split, in the order of its file, and their image-level labels.

    Attributes:
        labels: [N, C] uint8, 1 if an object of the class is in the photo.
        difficult: [N, C] uint8, 1 if all objects of the class in the photo are marked difficult.
        ids_sha256: of the ids and their order, as `ids_sha256` computes it.
    """

    name: str
    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: np.ndarray
    difficult: np.ndarray
    classes: tuple[str, ...]
    ids_sha256: str

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, rows: np.ndarray) -> "Split":
        """Some of its photos, in a given order."""
        ids = tuple(self.ids[row] for row in rows)
        return dataclasses.replace(
            self,
            ids=ids,
            paths=tuple(self.paths[row] for row in rows),
            labels=self.labels[rows],
            difficult=self.difficult[rows],
            ids_sha256=ids_sha256(ids),
        )


def describe_splits(name: str, splits: dict[str, Split]) -> dict[str, Any]:
    """What results and features record about their data."""
    return {
        "name": name,
        "splits": {role: split.name for role, split in splits.items()},
        "ids_sha256": {role: split.ids_sha256 for role, split in splits.items()},
    }


def ids_sha256(ids: Iterable[str]) -> str:
    """The sha256 of the ids joined by newlines, which depends on their order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()
