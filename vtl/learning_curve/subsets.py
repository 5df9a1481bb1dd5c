"""Which photos a learning curve is measured with: a draw's subsets, each within the next."""

from collections.abc import Sequence

import numpy as np

from vtl.data.draw import place
from vtl.data.photo_files import stem


def nested(
    ids: Sequence[str],
    groups: np.ndarray,
    positives: np.ndarray,
    shares: Sequence[float],
    seed: int,
) -> list[np.ndarray]:
    """The rows of each of the rising shares of N photos; each subset holds those before.

    `groups` [N] stay together. Groups come in the order of the hash of seed and first id, but
    first one for each class that has none of its `positives` [N, C], the rarest class before the
    others. A group that is larger than the room that is left is passed over; the first subset has a
    group at least.
    """
    sizes = np.bincount(groups)
    shown = np.zeros((len(sizes), positives.shape[1]), bool)
    np.logical_or.at(shown, groups, positives == 1)
    places: dict[int, float] = {}
    for photo_id, group in sorted(zip(ids, groups.tolist(), strict=True)):
        places.setdefault(group, place(f"{seed} {stem(photo_id)}"))
    order = np.array(sorted(places, key=places.__getitem__))
    rarest_first = np.argsort(positives.sum(axis=0), kind="stable")
    is_taken = np.zeros(len(sizes), bool)
    subsets = []
    for share in shares:
        room = round(share * len(groups)) - sizes[is_taken].sum()
        if not is_taken.any():
            room = max(room, sizes.min())
        for column in rarest_first:
            if shown[is_taken, column].any():
                continue
            fits = order[shown[order, column] & ~is_taken[order] & (sizes[order] <= room)]
            if len(fits):
                is_taken[fits[0]] = True
                room -= sizes[fits[0]]
        for group in order:
            if not is_taken[group] and sizes[group] <= room:
                is_taken[group] = True
                room -= sizes[group]
        subsets.append(np.flatnonzero(is_taken[groups]))
    return subsets
