"""A part of a training split to choose by: near-duplicates stay together."""

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vtl.data.batches import Images

LEAST_CORRELATION = 0.98
"""Of two photos' grey thumbnails from which on they are near-duplicates.

Far above what different photos have: no two of the 1,200 of experiments/partitions.py are a pair.
"""

THUMBNAIL_SIDE = 12
_CORRELATIONS_AT_ONCE = 1 << 24


class Rows:
    """Some rows of images, in a given order."""

    def __init__(self, images: Images, rows: np.ndarray):
        self._images, self._rows = images, rows
        self.shape = (len(rows), *images.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        return self._images[self._rows[rows]]


def hold_out(images: Images, ids: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Which of images [N, H, W, 3] to hold out, [N] bool: about `share` of them, in whole groups.

    A group goes by the hash of its first id, so that another photo moves no other. Groups larger
    than the share stay in. None is held out if there is no other group.
    """
    groups = near_duplicates(images)
    sizes = np.bincount(groups)
    places: dict[int, float] = {}
    for photo_id, group in sorted(zip(ids, groups.tolist(), strict=True)):
        places.setdefault(group, _place(photo_id, seed))
    small = [group for group in places if sizes[group] <= max(1, share * len(groups))]
    if len(places) < 2 or not small:
        return np.zeros(len(groups), bool)
    chosen = [group for group in small if places[group] < share]
    if not chosen:
        chosen = [min(small, key=places.__getitem__)]
    if len(chosen) == len(places):
        chosen.remove(max(chosen, key=places.__getitem__))
    return np.isin(groups, chosen)


def _place(photo_id: str, seed: int) -> float:
    """A number from 0 to 1 that depends on nothing else."""
    digest = hashlib.sha256(f"{seed} {photo_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def near_duplicates(images: Images) -> np.ndarray:
    """The group [N] of each of images [N, H, W, 3], from 0; near-duplicates are in one."""
    count = len(images)
    thumbnails = np.stack([_thumbnail(images[np.array([row])][0]) for row in range(count)])
    one, other = [np.arange(count)], [np.arange(count)]
    rows_at_once = max(1, _CORRELATIONS_AT_ONCE // count)
    for first in range(0, count, rows_at_once):
        correlations = thumbnails[first : first + rows_at_once] @ thumbnails.T
        near, to = np.nonzero(correlations >= LEAST_CORRELATION)
        one.append(first + near)
        other.append(to)
    pairs = np.concatenate(one), np.concatenate(other)
    graph = coo_array((np.ones(len(pairs[0]), bool), pairs), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """The grey values less their mean, of norm 1; 0 of a photo of one grey."""
    sides = THUMBNAIL_SIDE, THUMBNAIL_SIDE
    small = Image.fromarray(image).convert("L").resize(sides, Image.Resampling.BOX)
    grey = np.asarray(small, np.float32).ravel()
    grey -= grey.mean()
    return grey / max(float(np.linalg.norm(grey)), 1.0)
