"""The photos of a split that are worth a look, and where in each the network saw a class."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

KINDS = ("hit", "false alarm", "miss")
THUMBNAIL_SIDE = 112

MAP_COLOUR = (213, 94, 0)
"""Okabe and Ito's vermilion."""


class Choice(NamedTuple):
    """A photo (its row in the split) chosen for a class (its column) as one of KINDS."""

    row: int
    column: int
    kind: str


def choose(
    scores: np.ndarray, labels: np.ndarray, difficult: np.ndarray, num_each: int
) -> list[Choice]:
    """Choose at most `num_each` hits, false alarms and misses of each class, from arrays [N, C].

    `scores` may be logits.

    Hits are the photos with the class that score highest, misses those that score lowest, and false
    alarms the photos without the class that score highest. No photo is both a hit and a miss, and
    a difficult one is never a false alarm.
    """
    choices = []
    for column in range(scores.shape[1]):
        ranked = np.argsort(-scores[:, column], kind="stable")
        is_positive = labels[ranked, column] == 1
        positives = ranked[is_positive]
        negatives = ranked[~is_positive & (difficult[ranked, column] == 0)]
        num_misses = min(num_each, len(positives) // 2)
        hits = positives[: min(num_each, len(positives) - num_misses)]
        misses = positives[::-1][:num_misses]
        for kind, rows in zip(KINDS, (hits, negatives[:num_each], misses), strict=True):
            choices += [Choice(int(row), column, kind) for row in rows]
    return choices


def pack(
    choices: Sequence[Choice], photos: np.ndarray, maps: np.ndarray, bias: np.ndarray
) -> dict[str, np.ndarray]:
    """The arrays of gallery_SPLIT.npz, except for the photos' ids, scores and labels.

    photos [U, H, W, 3] uint8 are those of `chosen_rows(choices)`, as the network sees them. maps
    [U, h, w, C] come from `steps.make_map_step`, bias [C] from the head.

    Returns:
        rows [U] of the split; thumbnails, which are JPEG files one after another, and their ends
        [U]; for each of the M choices photo (of U), column (of C), kind and map [M, h, w]; bias
        [C].
    """
    rows = chosen_rows(choices)
    photo = np.searchsorted(rows, [choice.row for choice in choices])
    columns = np.array([choice.column for choice in choices])
    files = [thumbnail(image) for image in photos]
    return {
        "rows": rows,
        "thumbnails": np.frombuffer(b"".join(files), np.uint8),
        "ends": np.cumsum([len(file) for file in files]),
        "photo": photo,
        "column": columns,
        "kind": np.array([choice.kind for choice in choices]),
        "map": maps[photo, :, :, columns],
        "bias": bias,
    }


def chosen_rows(choices: Sequence[Choice]) -> np.ndarray:
    """The rows of the split that occur in `choices`, sorted, each once."""
    return np.unique([choice.row for choice in choices])


def thumbnail(image: np.ndarray, most: int = THUMBNAIL_SIDE) -> bytes:
    """A photo [H, W, 3] as a small JPEG file, whose longer side has at most so many pixels."""
    scale = min(1, most / max(image.shape))
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    small = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def map_layer(evidence: np.ndarray) -> bytes:
    """The evidence [h, w] for a class as a PNG file, a layer of colour, opaque where most is."""
    evidence = np.maximum(evidence, 0)
    pixels = np.empty((*evidence.shape, 4), np.uint8)
    pixels[..., :3] = MAP_COLOUR
    pixels[..., 3] = np.round(255 * evidence / max(evidence.max(), 1e-12))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(kind: str, content: bytes) -> str:
    """A picture file of a kind such as jpeg as part of a page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
