"""The photos of a run, decoded and looked through: broken ones, and those that splits share."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from vtl import processes
from vtl.data import duplicates, images
from vtl.data.decoded import DecodedPhotos
from vtl.data.duplicates import Pair
from vtl.data.split import Split
from vtl.data.splits import is_devkit
from vtl.errors import UserError, check_choice
from vtl.preprocessing import Preprocessing
from vtl.untrusted import printable

BROKEN = ("error", "skip")
DUPLICATES = ("warn", "error", "drop_from_train")
AUTO = "auto"
"""The `data.decode` that `settle_decode` replaces."""

DUPLICATES_FILE = "duplicates.csv"


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """What is used of each split, by role: its photos as the network gets them, and their labels.

    Attributes:
        broken: role -> id -> why the photo can't be decoded; it was left out.
        pairs: the photos that are there twice, by rows of `before`; None if nobody looked.
        before: the splits without the broken photos, but with those that were dropped.
        decode: how JPEGs were decoded, one of `images.DECODE`.
    """

    splits: dict[str, Split]
    photos: dict[str, DecodedPhotos]
    broken: dict[str, dict[str, str]]
    pairs: list[Pair] | None
    before: dict[str, Split]
    decode: str

    def record(self) -> dict[str, Any]:
        """What results.json says of it."""
        kinds = [pair.kind for pair in self.pairs or ()]
        counts = {kind: kinds.count(kind) for kind in duplicates.KINDS if kind in kinds}
        dropped = len(self.before["train"]) - len(self.splits["train"])
        return {
            "broken": self.broken,
            "duplicates": None if self.pairs is None else counts,
            "dropped_from_train": dropped,
            "decode": self.decode,
        }

    def with_features(self, features: Mapping[str, np.ndarray]) -> "Prepared":
        """The same, with the photos whose features [N, D], by role, are nearly the same.

        They are named, whatever `data.duplicates` says: alike isn't the same.
        """
        rows = {
            role: np.flatnonzero(np.isin(self.before[role].ids, used.ids))
            for role, used in self.splits.items()
        }
        pairs = self.pairs or []
        known = {(pair.roles, pair.rows[1]) for pair in pairs}
        found = []
        for pair in duplicates.similar(features):
            (one, other), (row, its) = pair.roles, pair.rows
            both = int(rows[one][row]), int(rows[other][its])
            if (pair.roles, both[1]) not in known:
                found.append(pair._replace(rows=both))
        warn(duplicates.describe(found, self.before))
        return dataclasses.replace(self, pairs=[*pairs, *found])

    @processes.in_first
    def write(self, workdir: Path) -> None:
        """Write the pairs as a CSV, if there are some."""
        if self.pairs:
            duplicates.write(workdir / DUPLICATES_FILE, self.pairs, self.before)


def check_options(data: ConfigDict) -> None:
    """Raise UserError unless `data.broken`, `duplicates` and `decode` name what there is."""
    check_choice("data.broken", data.broken, BROKEN)
    check_choice("data.duplicates", data.duplicates, DUPLICATES)
    check_choice("data.decode", data.decode, (AUTO, *images.DECODE))


def settle_decode(data: ConfigDict, before: Any) -> None:
    """Replace `data.decode` if it is `auto`, by what it is in the run that goes on, if one does.

    `before` is that value, or None. In a new run it is exact in VOC's layout, whose published
    numbers are compared, and fast in others.
    """
    settled = _settled(data, before)  # all processes ask, whatever each was told
    if data.decode == AUTO:
        data.decode = settled


@processes.by_first
def _settled(data: ConfigDict, before: Any) -> str:
    if data.decode != AUTO:
        return data.decode
    if before in images.DECODE:
        return before
    return images.EXACT if is_devkit(data) else images.FAST


def prepare(
    splits: Mapping[str, Split],
    preprocessing: Preprocessing,
    data: ConfigDict,
    *,
    crops: bool,
    is_shard: bool = False,
) -> Prepared:
    """Decode the photos of each split, by role, and do as `data.broken` and `data.duplicates` say.

    `crops` says whether training draws random crops; photos are then stored larger. In a shard of
    the splits nobody looks for duplicates, and one of its splits may have no photo.

    Raises:
        UserError: photos are missing, or broken or there twice where the config has it an error.
    """
    photos = images.decode_splits(
        splits,
        preprocessing,
        crops=crops,
        decode=data.decode,
        skips_broken=data.broken == "skip",
    )
    before = dict(splits)
    broken: dict[str, dict[str, str]] = {}
    for role, found in photos.items():
        if found.broken:
            broken[role] = {splits[role].ids[row]: why for row, why in found.broken.items()}
            legible = np.setdiff1d(np.arange(len(found)), list(found.broken))
            _say_broken(role, broken[role], len(legible), is_shard)
            before[role], photos[role] = splits[role].rows(legible), found.rows(legible)
    if is_shard:
        return Prepared(before, photos, broken, None, before, data.decode)
    processes.check_same("photos", {role: split.ids_sha256 for role, split in before.items()})
    pairs, is_shared = duplicates.find(before, photos)
    is_shared = processes.broadcast(is_shared)
    lines = duplicates.describe(pairs, before)
    if lines and data.duplicates == "error":
        raise UserError("\n".join([*lines[:2], "Mend it, or see --config.data.duplicates."]))
    used = dict(before)
    if data.duplicates == "drop_from_train" and is_shared.any():
        if is_shared.all():
            raise UserError(
                "every photo of train is in another split too: none is left to train on"
            )
        kept = np.flatnonzero(~is_shared)
        used["train"], photos["train"] = before["train"].rows(kept), photos["train"].rows(kept)
        lines.append(f"{int(is_shared.sum())} photos were dropped from train")
    warn(lines)
    return Prepared(used, photos, broken, pairs, before, data.decode)


def warn(lines: Sequence[str]) -> None:
    """Say what `duplicates.describe` found."""
    for line in lines:
        logging.warning("%s", line)
    if lines:
        logging.warning("all of them are in the run's %s", DUPLICATES_FILE)


def _say_broken(role: str, broken: Mapping[str, str], num_legible: int, is_shard: bool) -> None:
    if not num_legible and not is_shard:
        raise UserError(f"none of the {len(broken)} photos of {role} can be decoded")
    logging.warning(
        "%d of %d photos of %s can't be decoded and are left out, such as %s",
        len(broken),
        len(broken) + num_legible,
        role,
        printable(next(iter(broken)), 80),
    )
