"""A part of a training split to choose by, in whole groups of photos."""

from collections.abc import Sequence

import numpy as np

from vtl.data.batches import Images
from vtl.data.draw import place
from vtl.data.photo_files import stem


class Rows:
    """Some rows of images, in a given order."""

    def __init__(self, images: Images, rows: np.ndarray):
        self._images, self._rows = images, rows
        self.shape = (len(rows), *images.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        return self._images[self._rows[rows]]


def hold_out(ids: Sequence[str], groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which of N photos to hold out, [N] bool: about `share` of them, in whole `groups` [N].

    A group goes by the hash of its first id, so that another photo moves no other. Groups larger
    than the share stay in. None is held out if there is no other group.
    """
    sizes = np.bincount(groups)
    places: dict[int, float] = {}
    for photo_id, group in sorted(zip(ids, groups.tolist(), strict=True)):
        places.setdefault(group, place(f"{seed} {stem(photo_id)}"))
    small = [group for group in places if sizes[group] <= max(1, share * len(groups))]
    if len(places) < 2 or not small:
        return np.zeros(len(groups), bool)
    chosen = [group for group in small if places[group] < share]
    if not chosen:
        chosen = [min(small, key=places.__getitem__)]
    if len(chosen) == len(places):
        chosen.remove(max(chosen, key=places.__getitem__))
    return np.isin(groups, chosen)
