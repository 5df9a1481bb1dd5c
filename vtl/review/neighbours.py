"""Which photos are nearly the same by their features, and which are like no other."""

from typing import NamedTuple

import numpy as np

from vtl.data import duplicates

NUM_NEAREST = 5
"""A photo is as unlike the others as its nearest but four."""

SAME = 1 - 1e-6
"""The cosine that counts where there are too few photos to say how alike others are."""


class Neighbours(NamedTuple):
    """The group [N] of each photo, near-duplicates in one, and how alike [N] its nearest are."""

    groups: np.ndarray
    likeness: np.ndarray


def find(features: np.ndarray) -> Neighbours:
    """The neighbours among features [N, D], as `duplicates.similar` compares them.

    A likeness is the cosine to the fifth nearest of other groups, along the principal axes.
    """
    count = len(features)
    mean, axes = duplicates.principal_axes({"": features})
    places = duplicates.along(features, mean, axes)
    least = duplicates.LEAST_COSINE if count >= duplicates.LEAST_PHOTOS else SAME
    one, other, likeness = [np.arange(count)], [np.arange(count)], np.zeros(count)
    for first, found in duplicates.correlations(places, places):
        near, to = np.nonzero(found >= least)
        one.append(first + near)
        other.append(to)
        found[near, to] = -1  # a copy is no other photo
        nth = min(NUM_NEAREST, count)
        likeness[first : first + len(found)] = np.partition(found, count - nth, axis=1)[:, -nth]
    groups = duplicates.connected(np.concatenate(one), np.concatenate(other), count)
    return Neighbours(groups, likeness)
