"""A run's gallery -> pictures that a page can hold: thumbnails and class activation maps."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from vtl.evaluation.gallery import KINDS
from vtl.report.runs import Run

MAP_COLOUR = (213, 94, 0)
"""Okabe and Ito's vermilion."""

MAX_BYTES = 3_000_000
"""Of all pictures: a page of under 5 MB can be sent by mail."""


class Picture(NamedTuple):
    """One photo in the gallery of one class; `photo` and `map` are data URIs."""

    name: str
    score: float
    labels: tuple[str, ...]
    photo: str
    map: str


class ClassPictures(NamedTuple):
    """The gallery of one class: pictures by KINDS."""

    name: str
    kinds: dict[str, list[Picture]]


def by_class(run: Run) -> tuple[list[ClassPictures], int]:
    """The gallery, class by class, and how many classes had no room."""
    gallery = run.gallery
    shown: list[ClassPictures] = []
    size = 0
    for column, name in enumerate(run.classes):
        of_class = np.flatnonzero(gallery["column"] == column)
        kinds = {
            kind: [_picture(run, m) for m in of_class.tolist() if gallery["kind"][m] == kind]
            for kind in KINDS
        }
        size += sum(len(p.photo) + len(p.map) for pictures in kinds.values() for p in pictures)
        if size > MAX_BYTES:
            return shown, len(run.classes) - len(shown)
        shown.append(ClassPictures(name, kinds))
    return shown, 0


def _picture(run: Run, m: int) -> Picture:
    gallery = run.gallery
    row = int(gallery["photo"][m])
    return Picture(
        name=str(gallery["ids"][row]),
        score=float(gallery["scores"][row, gallery["column"][m]]),
        labels=true_labels(run, row),
        photo=thumbnail(run, row),
        map=_map(gallery["map"][m]),
    )


def true_labels(run: Run, row: int) -> tuple[str, ...]:
    """What is in one photo of the gallery."""
    present = run.gallery["labels"][row] == 1
    return tuple(name for name, is_there in zip(run.classes, present, strict=True) if is_there)


def thumbnail(run: Run, row: int) -> str:
    """The photo of one row of the gallery, as a data URI."""
    ends = run.gallery["ends"]
    start = ends[row - 1] if row else 0
    return _data_uri("jpeg", run.gallery["thumbnails"][start : ends[row]].tobytes())


def _map(values: np.ndarray) -> str:
    """What speaks for the class, as a coat of colour; its place of most is opaque."""
    evidence = np.maximum(values, 0)
    pixels = np.empty((*values.shape, 4), np.uint8)
    pixels[..., :3] = MAP_COLOUR
    pixels[..., 3] = np.round(255 * evidence / max(evidence.max(), 1e-12))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return _data_uri("png", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
