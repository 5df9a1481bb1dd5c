"""Finds a data set and reads the splits of a run, with the reader of its layout."""

from pathlib import Path

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from vtl.data import demo, photo_files, voc
from vtl.data.splits import Split
from vtl.errors import UserError
from vtl.files import cache_holding, user_path
from vtl.untrusted import printable

ROLES = ("train", "val", "test")


def read(data: ConfigDict) -> dict[str, Split]:
    """The splits of a config's `data`, by role: `train_split`, `val_split` and `test_split`.

    Raises:
        UserError: as in `find_root` and `read_splits`.
    """
    names = {role: data[f"{role}_split"] for role in ROLES if f"{role}_split" in data}
    return read_splits(find_root(data.name, data.root), names)


def find_root(name: str, root: str | None) -> Path:
    """The devkit's year directory: `root`, or else VOC2007's or the demo's in the cache.

    Raises:
        UserError: `root` isn't a devkit, or there is no `root` and the data can't be fetched.
    """
    if root:
        return voc.check_root(user_path(root))
    if name == "demo":
        return demo.write_once(cache_holding(demo.NAME))
    if name == "voc2007":
        return voc.fetch_voc2007()
    raise UserError(
        f"data.name={name!r} can't be fetched, only voc2007 and demo can\n"
        "Give an unpacked devkit with --config.data.root=PATH/VOCdevkit/YEAR."
    )


def read_splits(root: Path, names: dict[str, str]) -> dict[str, Split]:
    """The splits named in, say, {"train": "trainval", "val": "", "test": "test"}, without the "".

    Raises:
        UserError: as in `voc.read_split`, or the train split shares a photo with another.
    """
    splits: dict[str, Split] = {}
    for role, name in names.items():
        if name:
            known = splits["train"].classes if "train" in splits else None
            splits[role] = voc.read_split(root, name, known)
    for role in splits.keys() - {"train"}:
        shared = set(splits["train"].ids) & set(splits[role].ids)
        if shared:
            raise UserError(
                f"data.train_split={names['train']} and data.{role}_split={names[role]} share "
                f"{len(shared)} photos, such as {min(shared)}: they must be disjoint"
            )
        copies = photo_files.same_photos(splits["train"], splits[role])
        if copies:
            logging.warning(
                "%d photos of split %s are also in split %s, under other names: %s is %s there",
                len(copies),
                names[role],
                names["train"],
                *copies[0][::-1],
            )
    _warn_of_lone_classes(splits)
    return splits


def _warn_of_lone_classes(splits: dict[str, Split]) -> None:
    """Of classes that have photos in one split only: perhaps a slip of the pen."""
    if len(splits) < 2:
        return
    counts = {split.name: (split.labels | split.difficult).sum(0) for split in splits.values()}
    classes = next(iter(splits.values())).classes
    lone = [
        f"{classes[column]} in {name} ({count[column]})"
        for column in np.flatnonzero((np.stack([*counts.values()]) > 0).sum(0) == 1)
        for name, count in counts.items()
        if count[column]
    ]
    if lone:
        logging.warning("a class has photos in one split alone: %s", printable("; ".join(lone)))
