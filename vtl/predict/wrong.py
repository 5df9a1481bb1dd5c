"""The labelled photos that a network gets wrong: of each class the most confidently wrong.

It holds a few numbers of the worst photos, and nothing of the others.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from vtl.data.split import Split
from vtl.predict.photos import Photo
from vtl.predict.predictor import Predictor
from vtl.predict.tally import Tally
from vtl.untrusted import printable
from vtl.weights import metadata

KINDS = ("missed", "false alarm")
MOST_EACH = 12
"""Photos of a class and kind."""


class Mistake(NamedTuple):
    """One photo, by its role and row, that is wrong about one class; sorted by how confidently."""

    confidence: float
    """In the wrong answer: a miss of a class at 0.1 has 0.9."""
    order: int
    """Minus its place among all photos: of two alike the first comes first."""
    role: str
    row: int
    probability: float


class Mistakes:
    """Counts [C] of both kinds of mistake, and the worst of them, by (kind, column of C)."""

    def __init__(self, num_classes: int):
        self.counts = {kind: np.zeros(num_classes, int) for kind in KINDS}
        self._heaps: dict[tuple[str, int], list[Mistake]] = {}

    def add(self, kind: str, column: int, mistake: Mistake) -> None:
        """Count a mistake, and keep it if it is among the worst."""
        self.counts[kind][column] += 1
        heap = self._heaps.setdefault((kind, column), [])
        if len(heap) < MOST_EACH:
            heapq.heappush(heap, mistake)
        else:
            heapq.heappushpop(heap, mistake)

    def worst(self, kind: str, column: int) -> list[Mistake]:
        """At most MOST_EACH, the most confident first."""
        return sorted(self._heaps.get((kind, column), []), reverse=True)


def columns_of(predictor: Predictor, splits: Mapping[str, Split]) -> list[int]:
    """The network's column of each class of the data.

    Raises:
        UserError: its classes are others.
    """
    classes = next(iter(splits.values())).classes
    return metadata.columns(predictor.classes, classes)


def find(
    predictor: Predictor, splits: Mapping[str, Split], columns: list[int]
) -> tuple[Mistakes, Tally]:
    """The mistakes on all photos of `splits`, by role.

    Where it is not known whether a class is in a photo, or the photo is a difficult one of the
    class, nothing is a mistake.
    """
    mistakes, tally = Mistakes(len(columns)), Tally()
    places = ((role, row) for role, split in splits.items() for row in range(len(split)))
    for predictions in predictor.predict(_photos(splits)):
        for name, probabilities, answers, problem in predictions:
            role, row = next(places)
            tally.count(name, problem)
            if probabilities is None or answers is None:
                continue
            split, rows = splits[role], slice(row, row + 1)
            label = split.labels[rows][0] == 1
            counts = (split.label_mask[rows][0] == 1) & (split.difficult[rows][0] == 0)
            for column in np.flatnonzero(counts & (label != answers[columns])).tolist():
                p = float(probabilities[columns[column]])
                is_missed = bool(label[column])
                mistakes.add(
                    KINDS[0] if is_missed else KINDS[1],
                    column,
                    Mistake(1 - p if is_missed else p, -tally.num_photos, role, row, p),
                )
    return mistakes, tally


def _photos(splits: Mapping[str, Split]) -> Iterator[Photo]:
    for split in splits.values():
        for photo_id, path in zip(split.ids, split.paths, strict=True):
            yield Photo(printable(photo_id, 300), path)


def chosen(mistakes: Mistakes, most: int) -> dict[int, dict[str, list[Mistake]]]:
    """Column -> kind -> the mistakes that are shown, at most so many in all.

    Each class that has any shows as many as another; if even one each is too many, those with the
    most mistakes come first.
    """
    totals = np.sum([*mistakes.counts.values()], axis=0)
    some = [c for c in np.argsort(-totals, kind="stable").tolist() if totals[c]]
    each = max(1, min(MOST_EACH, most // (len(KINDS) * max(1, len(some)))))
    shown = sorted(some[: most // (len(KINDS) * each)])
    return {
        column: {kind: mistakes.worst(kind, column)[:each] for kind in KINDS} for column in shown
    }


def places_of(shown: Iterable[dict[str, list[Mistake]]]) -> list[tuple[str, int]]:
    """The role and row of each photo that is shown, once."""
    found = {(m.role, m.row) for kinds in shown for worst in kinds.values() for m in worst}
    return sorted(found)
