"""Finds photos that two splits share, and photos that are there twice with other labels.

Photos are compared by their pixels as the network gets them, and by grey thumbnails: another size,
compression or brightness leaves those nearly as they were. Where deep features are at hand, they
are compared too: by them a photo is also like its mirror image and like a part of it.
"""

import csv
import io
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy
from PIL import Image

from vtl import processes
from vtl.data.batches import Images
from vtl.data.decoded import DecodedPhotos
from vtl.data.photo_files import is_same_file
from vtl.data.split import Split
from vtl.files import whole_file
from vtl.untrusted import printable

LEAST_CORRELATION = 0.98
"""Of two photos' grey thumbnails from which on they are near-duplicates.

Far above what different photos have: no two of the 1,200 of experiments/partitions.py are a pair.
"""

THUMBNAIL_SIDE = 12
MAX_COMPARED = 200_000
"""Photos of two splits together of which thumbnails are compared; of more only the same pixels."""

LEAST_COSINE = 0.8
"""Of two photos' deep features along the principal axes, each of variance 1, from which on the
photos are similar; experiments/near_duplicates.py shows what this finds.
"""

MAX_AXES = 128
PHOTOS_AN_AXIS = 4
LEAST_PHOTOS = 256
"""Of fewer features are not compared: too little is known of how alike other photos are."""

MAX_SAMPLED = 1024
"""Photos by which the axes go."""

_CORRELATIONS_AT_ONCE = 1 << 24

KINDS = ("same file", "same pixels", "near-duplicate", "similar features")


class Pair(NamedTuple):
    """Two photos that are the same, or nearly, by the splits' roles and their rows there.

    `correlation` is that of their thumbnails, or the cosine of similar features.
    """

    kind: str
    correlation: float
    roles: tuple[str, str]
    rows: tuple[int, int]
    has_other_labels: bool


Photos = Mapping[str, DecodedPhotos]
"""Those of each split, by role."""

_in_use: weakref.WeakKeyDictionary[DecodedPhotos, np.ndarray] = weakref.WeakKeyDictionary()
"""The `thumbnails` of photos in use, which are looked through for several reasons."""


def find(splits: Mapping[str, Split], photos: Photos) -> tuple[list[Pair], np.ndarray]:
    """The pairs across splits, and which photos [N] of train are in one.

    Of each photo of the later split its most alike in the earlier one is given. Within a split only
    photos of the same pixels are pairs, and only if their labels differ.
    """
    pairs, is_shared = list(_contradictions(splits, photos)), np.zeros(len(splits["train"]), bool)
    seen: dict[str, np.ndarray] = {}
    for one, other in combinations(splits, 2):
        if len(photos[one]) + len(photos[other]) <= MAX_COMPARED:
            for role in (one, other):
                if role not in seen:
                    seen[role] = thumbnails(photos[role])
        rows, correlations, is_matched = _best(
            photos[one], photos[other], seen.get(one), seen.get(other)
        )
        if one == "train":
            is_shared |= is_matched
        for its in np.flatnonzero(rows >= 0).tolist():
            roles, both = (one, other), (int(rows[its]), its)
            pairs.append(_pair(splits, photos, roles, both, float(correlations[its])))
    return pairs, is_shared


def _best(
    one: DecodedPhotos,
    other: DecodedPhotos,
    thumbnails: np.ndarray | None,
    others: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of the other M photos the row of its like in `one`, -1 if it has none, and how alike
    they are [M]; and which photos of `one` [N] are alike to any.
    """
    rows, nearness = np.full(len(other), -1), np.zeros(len(other), np.float32)
    is_matched = np.zeros(len(one), bool)
    if thumbnails is not None and others is not None:
        for first, found in correlations(thumbnails, others):
            is_matched[first : first + len(found)] = (found >= LEAST_CORRELATION).any(axis=1)
            best = found.max(axis=0)
            is_better = (best >= LEAST_CORRELATION) & (best > nearness)
            rows[is_better] = first + found.argmax(axis=0)[is_better]
            nearness[is_better] = best[is_better]
    by_crc: dict[int, list[int]] = {}
    for row in np.flatnonzero(np.isin(one.crcs, other.crcs)).tolist():
        by_crc.setdefault(int(one.crcs[row]), []).append(row)
    for its in np.flatnonzero(np.isin(other.crcs, one.crcs)).tolist():
        for row in by_crc[int(other.crcs[its])]:
            if _are_same(one, row, other, its):
                rows[its], nearness[its], is_matched[row] = row, 1.0, True
    return rows, nearness, is_matched


def _are_same(one: DecodedPhotos, row: int, other: DecodedPhotos, its: int) -> bool:
    """Whether two photos have the same pixels; of many, some have one CRC by chance."""
    return bool(one.crcs[row] == other.crcs[its]) and np.array_equal(one[row], other[its])


def correlations(one: np.ndarray, other: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Of vectors [N, D] and [M, D] of norm 1, some at a time: the first's row, and [some, M]."""
    rows_at_once = max(1, _CORRELATIONS_AT_ONCE // len(other))
    for first in range(0, len(one), rows_at_once):
        yield first, one[first : first + rows_at_once] @ other.T


def _contradictions(splits: Mapping[str, Split], photos: Photos) -> Iterator[Pair]:
    for role in splits:
        first: dict[int, int] = {}
        for row, crc in enumerate(photos[role].crcs.tolist()):
            earlier = first.setdefault(crc, row)
            if earlier != row and _are_same(photos[role], earlier, photos[role], row):
                pair = _pair(splits, photos, (role, role), (earlier, row), 1.0)
                if pair.has_other_labels:
                    yield pair


def _pair(
    splits: Mapping[str, Split],
    photos: Photos,
    roles: tuple[str, str],
    rows: tuple[int, int],
    correlation: float,
) -> Pair:
    one, other = (splits[role] for role in roles)
    places = [np.array([row]) for row in rows]
    kind = KINDS[2]
    if _are_same(photos[roles[0]], rows[0], photos[roles[1]], rows[1]):
        kind = KINDS[0] if is_same_file(one.paths[rows[0]], other.paths[rows[1]]) else KINDS[1]
    differ = one.labels[places[0]] != other.labels[places[1]]
    are_known = (one.label_mask[places[0]] & other.label_mask[places[1]]) == 1
    has_other_labels = kind != KINDS[2] and bool((differ & are_known).any())
    return Pair(kind, correlation, roles, rows, has_other_labels)


def near_duplicates(images: Images) -> np.ndarray:
    """The group [N] of each of images [N, H, W, 3], from 0; near-duplicates are in one.

    Of more than MAX_COMPARED images each is a group of its own.
    """
    count = len(images)
    if count > MAX_COMPARED:
        return np.arange(count)
    seen = thumbnails(images)
    one, other = [np.arange(count)], [np.arange(count)]
    for first, found in correlations(seen, seen):
        near, to = np.nonzero(found >= LEAST_CORRELATION)
        one.append(first + near)
        other.append(to)
    # Processors round differently, and who trains together must agree on the groups.
    return processes.broadcast(connected(np.concatenate(one), np.concatenate(other), count))


def groups_of(images: Images, split: Split) -> np.ndarray:
    """The group [N] of each photo of a split of images [N, H, W, 3], from 0.

    Near-duplicates are in one, and so is what a table gives one group.
    """
    groups = near_duplicates(images)
    return joined(groups, split.groups) if split.groups else groups


def connected(one: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
    """The group [count] of each row, from 0, where rows one [P] and other [P] are pairs."""
    graph = scipy.sparse.coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    return np.asarray(scipy.sparse.csgraph.connected_components(graph, directed=False)[1])


def joined(groups: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Groups [N] of which those are one that share a name [N]; "" is none."""
    first: dict[str, int] = {}
    rows = np.array([row for row, name in enumerate(names) if name], int)
    named = np.array([first.setdefault(names[row], int(row)) for row in rows], int)
    starts = np.unique(groups, return_index=True)[1][groups]
    one = np.concatenate([np.arange(len(groups)), rows])
    return connected(one, np.concatenate([starts, named]), len(groups))


def thumbnails(images: Images) -> np.ndarray:
    """Of images [N, H, W, 3] uint8, [N, D] of norm 1; 0 of one that is all one grey."""
    if not isinstance(images, DecodedPhotos):
        return _thumbnails_of(images)
    if images not in _in_use:
        _in_use[images] = _thumbnails_of(images)
        _in_use[images].flags.writeable = False
    return _in_use[images]


def _thumbnails_of(images: Images) -> np.ndarray:
    with ThreadPoolExecutor() as pool:
        rows = (np.array([row]) for row in range(len(images)))
        return np.stack(list(pool.map(lambda row: _thumbnail(images[row][0]), rows)))


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """The grey values less their mean."""
    sides = THUMBNAIL_SIDE, THUMBNAIL_SIDE
    small = Image.fromarray(image).convert("L").resize(sides, Image.Resampling.BOX)
    grey = np.asarray(small, np.float32).ravel()
    grey -= grey.mean()
    return grey / max(float(np.linalg.norm(grey)), 1.0)


def similar(features: Mapping[str, np.ndarray]) -> list[Pair]:
    """The pairs across splits whose features [N, D] are nearly the same, by role.

    Of each photo of the later split its most alike in the earlier one is given. Of fewer than
    LEAST_PHOTOS, and of splits that have more than MAX_COMPARED together, there are none.
    """
    if sum(map(len, features.values())) < LEAST_PHOTOS:
        return []
    pairs, (mean, axes) = [], principal_axes(features)
    seen = {role: along(its, mean, axes) for role, its in features.items()}
    for one, other in combinations(seen, 2):
        if len(seen[one]) + len(seen[other]) > MAX_COMPARED:
            continue
        rows = np.full(len(seen[other]), -1)
        cosines = np.full(len(rows), LEAST_COSINE, np.float32)
        for first, found in correlations(seen[one], seen[other]):
            best = found.max(axis=0)
            is_better = best >= cosines
            rows[is_better] = first + found.argmax(axis=0)[is_better]
            cosines[is_better] = best[is_better]
        for its in np.flatnonzero(rows >= 0).tolist():
            both, cosine = (int(rows[its]), its), float(cosines[its])
            pairs.append(Pair(KINDS[3], cosine, (one, other), both, has_other_labels=False))
    return pairs


def principal_axes(features: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mean [D] of features [N, D] by role, and axes [D, A], along each of which they vary by 1.

    What all photos of a data set have in common then counts no more than what tells two of them
    apart, whatever the network.
    """
    counts = [len(its) for its in features.values()]
    rows = np.unique(np.linspace(0, sum(counts) - 1, MAX_SAMPLED).astype(int))
    firsts = np.cumsum([0, *counts[:-1]])
    sample = np.concatenate(
        [
            np.asarray(its[rows[(rows >= first) & (rows < first + count)] - first], np.float32)
            for its, first, count in zip(features.values(), firsts, counts, strict=True)
        ]
    )
    mean = sample.mean(axis=0)
    sample -= mean
    variances, turn = np.linalg.eigh(sample @ sample.T / len(sample))
    kept = np.argsort(-variances)[: min(MAX_AXES, len(sample) // PHOTOS_AN_AXIS)]
    kept = kept[variances[kept] > 1e-6 * variances.max()]
    return mean, sample.T @ (turn[:, kept] / variances[kept]) / np.sqrt(np.float32(len(sample)))


def along(features: np.ndarray, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Features [N, D] -> [N, A], each of norm 1; in blocks, as a file may be mapped."""
    at_once = max(1, _CORRELATIONS_AT_ONCE // len(mean))
    firsts = range(0, len(features), at_once)
    places = np.concatenate([(features[i : i + at_once] - mean) @ axes for i in firsts])
    return places / np.maximum(np.linalg.norm(places, axis=1, keepdims=True), 1e-6)


class Listed(Protocol):
    """What of a split is printed and written: its name, and its photos' ids and paths."""

    @property
    def name(self) -> str:
        """Its own, not its role."""

    @property
    def ids(self) -> Sequence[str]:
        """[N]."""

    @property
    def paths(self) -> Sequence[Any]:
        """[N]."""


def describe(pairs: Sequence[Pair], splits: Mapping[str, Listed]) -> list[str]:
    """A line for each two splits that share photos, and one for contradicting labels."""
    lines = []
    for roles in dict.fromkeys(pair.roles for pair in pairs if pair.roles[0] != pair.roles[1]):
        its = [pair for pair in pairs if pair.roles == roles]
        counts = ", ".join(f"{n} {kind}" for kind, n in Counter(p.kind for p in its).items())
        lines.append(
            f"{len(its)} photos of {roles[1]} are also in {roles[0]} ({counts}): "
            f"{_names(its[0], splits)}"
        )
    if its := [pair for pair in pairs if pair.has_other_labels]:
        lines.append(
            f"{len(its)} photos are there twice with other labels: {_names(its[0], splits)}"
        )
    return lines


def _names(pair: Pair, splits: Mapping[str, Listed]) -> str:
    one, other = (
        printable(splits[role].ids[row], 60)
        for role, row in zip(pair.roles, pair.rows, strict=True)
    )
    return f"{other} is {one}"


def write(path: Path, pairs: Sequence[Pair], splits: Mapping[str, Listed]) -> None:
    """Write a CSV with a row a pair."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("kind", "correlation", "split", "photo", "other_split", "other_photo", "labels"))
    for pair in pairs:
        places = [
            (splits[role].name, splits[role].paths[row])
            for role, row in zip(pair.roles, pair.rows, strict=True)
        ]
        labels = "others" if pair.has_other_labels else "same"
        if pair.kind in KINDS[2:]:
            labels = ""
        rows.writerow((pair.kind, f"{pair.correlation:.4f}", *places[0], *places[1], labels))
    with whole_file(path) as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))
