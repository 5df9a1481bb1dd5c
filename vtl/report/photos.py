"""A run's photos for the page: thumbnails, class activation maps, and one photo as an example."""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from vtl.evaluation.gallery import KINDS, data_uri, map_layer
from vtl.report.compare import DataSet
from vtl.report.language import Language
from vtl.report.runs import Run
from vtl.untrusted import printable

MAX_BYTES = 3_000_000
"""Of all pictures together, so that the page stays under 5 MB and can be sent by mail."""


class Picture(NamedTuple):
    """One photo in the gallery of one class; `photo` and `map` are data URIs."""

    name: str
    score: float
    labels: tuple[str, ...]
    photo: str
    map: str


class ClassPictures(NamedTuple):
    """The gallery of one class; `kinds` maps each of KINDS to its pictures."""

    name: str
    kinds: dict[str, list[Picture]]


def by_class(run: Run, language: Language) -> tuple[list[ClassPictures], int]:
    """The gallery, class by class, and the number of classes that did not fit."""
    gallery = run.gallery
    shown: list[ClassPictures] = []
    size = 0
    for column, name in enumerate(run.classes):
        entries = np.flatnonzero(gallery["column"] == column).tolist()
        kinds = {
            kind: [
                _picture(run, entry, language)
                for entry in entries
                if gallery["kind"][entry] == kind
            ]
            for kind in KINDS
        }
        size += sum(len(p.photo) + len(p.map) for pictures in kinds.values() for p in pictures)
        if size > MAX_BYTES:
            return shown, len(run.classes) - len(shown)
        shown.append(ClassPictures(name, kinds))
    return shown, 0


def _picture(run: Run, entry: int, language: Language) -> Picture:
    """The picture of one entry of the gallery; several entries may share a photo."""
    gallery = run.gallery
    row = int(gallery["photo"][entry])
    return Picture(
        name=str(gallery["ids"][row]),
        score=float(gallery["scores"][row, gallery["column"][entry]]),
        labels=labels_of(run, row, language),
        photo=thumbnail(run, row),
        map=data_uri("png", map_layer(gallery["map"][entry])),
    )


def labels_of(run: Run, row: int, language: Language) -> tuple[str, ...]:
    """The classes present in one photo of the gallery, then those of which nobody knows."""
    present, known = (run.gallery[name][row] == 1 for name in ("labels", "label_mask"))
    classes = np.array(run.classes, object)
    unknown = (language("not_known", name=name) for name in classes[~known])
    return (*classes[present], *unknown)


def thumbnail(run: Run, row: int) -> str:
    """The photo of one row of the gallery, as a data URI."""
    ends = run.gallery["ends"]
    start = ends[row - 1] if row else 0
    return data_uri("jpeg", run.gallery["thumbnails"][start : ends[row]].tobytes())


def _most_labels(labels: np.ndarray, is_known: np.ndarray) -> int:
    """The row of labels [N, C] with the most, of those that are known, if there are some."""
    return int((labels.sum(axis=1) + labels.shape[1] * is_known).argmax())


@dataclasses.dataclass(frozen=True, eq=False)
class ExamplePhoto:
    """The photo that the scores are explained on; scores and labels are [C]."""

    run: Run
    name: str
    scores: np.ndarray
    labels: np.ndarray
    thumbnail: str

    @staticmethod
    def of(data_set: DataSet) -> "ExamplePhoto | None":
        """The photo with the most labels, in a gallery if there is one.

        One without unknown labels comes before others. None if the scores are no probabilities,
        from which no example can be worked out.
        """
        run = next((run for run in (data_set.best, *data_set.runs) if run.gallery), data_set.best)
        split = run.headline_scores
        if split.scores.min() < 0 or split.scores.max() > 1:
            return None
        is_known: np.ndarray = np.all(split.is_known, axis=1)
        if run.gallery:
            labels = run.gallery["labels"]
            known = set(itertools.compress(split.ids or (), is_known.tolist()))
            row = _most_labels(labels, np.array([str(i) in known for i in run.gallery["ids"]]))
            name, scores = str(run.gallery["ids"][row]), run.gallery["scores"][row]
            return ExamplePhoto(run, name, scores, labels[row], thumbnail(run, row))
        row = _most_labels(split.labels, is_known)
        name = printable(row if split.ids is None else split.ids[row])
        return ExamplePhoto(run, name, split.scores[row], split.labels[row], "")

    def describe(self, language: Language) -> Markup:
        """The photo in words, for those who don't see it."""
        labels = ", ".join(self.present()) or language("nothing")
        return language("alt_photo", photo=self.name, labels=labels)

    def present(self) -> list[str]:
        """The classes present in it."""
        return [
            name for name, label in zip(self.run.classes, self.labels, strict=True) if label == 1
        ]
