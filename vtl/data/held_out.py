"""A part of a training split to choose by: near-duplicates stay together."""

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import GroupShuffleSplit

from vtl.data.batches import Images
from vtl.errors import UserError

MAX_DISTANCE = 4
"""Of 64 bits: copies, photos saved anew and frames of a burst differ in fewer."""

_ROWS_AT_ONCE = 1024


class Rows:
    """Some rows of images, in a given order."""

    def __init__(self, images: Images, rows: np.ndarray):
        self._images, self._rows = images, rows
        self.shape = (len(rows), *images.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        return self._images[self._rows[rows]]


def hold_out(images: Images, share: float, seed: int) -> np.ndarray:
    """Which of images [N, H, W, 3] to hold out, [N] bool: about `share` of their groups.

    Raises:
        UserError: all are one group, so that none can be held out.
    """
    groups = near_duplicates(images)
    if len(np.unique(groups)) < 2:
        raise UserError(
            f"held_out={share:g}: of {len(groups)} photos that are all alike none can be held out; "
            "set --config.held_out=0"
        )
    splitter = GroupShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    _, held_out = next(splitter.split(groups, groups=groups))
    return np.isin(np.arange(len(groups)), held_out)


def near_duplicates(images: Images) -> np.ndarray:
    """The group [N] of each image; two are in one if their hashes differ in `MAX_DISTANCE` bits."""
    rows = range(len(images))
    hashes = np.array([_difference_hash(images[np.array([row])][0]) for row in rows])
    one, other = [], []
    for first in range(0, len(hashes), _ROWS_AT_ONCE):
        distances = np.bitwise_count(hashes[first : first + _ROWS_AT_ONCE, None] ^ hashes)
        near, to = np.nonzero(distances <= MAX_DISTANCE)
        one.append(first + near)
        other.append(to)
    pairs = np.concatenate(one), np.concatenate(other)
    graph = coo_array((np.ones(len(pairs[0]), bool), pairs), shape=(len(hashes),) * 2)
    return connected_components(graph, directed=False)[1]


def _difference_hash(image: np.ndarray) -> np.uint64:
    """Whether each of 8 x 8 points is darker than its right neighbour, as 64 bits."""
    small = Image.fromarray(image).convert("L").resize((9, 8), Image.Resampling.BOX)
    grey = np.asarray(small, np.int16)
    return np.packbits(grey[:, :-1] < grey[:, 1:]).view(np.uint64)[0]
