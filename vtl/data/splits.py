"""Finds out how a data set is laid out, and reads the splits of a run with that layout's reader.

from vtl.data import splits
by_role = splits.read("photos", labels="labels.csv")
by_role["train"].paths, by_role["train"].labels, by_role["train"].label_mask
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from vtl.data import demo, draw, voc
from vtl.data.layouts import coco, folders, found, table, yolo
from vtl.data.layouts.found import Found
from vtl.data.photo_files import stem
from vtl.data.split import PathsBelow, Split, ids_sha256, one_hot_if_possible, rows_of
from vtl.errors import UserError, check_choice
from vtl.files import cache_holding, user_path
from vtl.untrusted import printable

ROLES = draw.NAMES

FETCHED = ("voc2007", "demo")
"""What data.name can fetch or make."""

VOC_SPLITS = {"train": "trainval", "val": "", "test": "test"}
"""What the configs call the splits: in other layouts than VOC's, the ones of the roles' names."""

FEW = 5
"""A class of fewer photos in a split is said to have few."""

MOST_SHOWN = 30
"""Classes in the table of their counts."""


def of_config(data: ConfigDict) -> dict[str, Split]:
    """The splits of a config's `data`, by role.

    Raises:
        UserError: as in `read`.
    """
    names = {role: data[f"{role}_split"] for role in ROLES if f"{role}_split" in data}
    if not data.root:
        if data.get("labels"):
            raise UserError("data.labels needs data.root, the folder that its photos lie in")
        return read_splits(find_root(data.name, None), names)
    return read(
        data.root,
        labels=data.get("labels") or None,
        flags=data.get("flags", "yes_no"),
        separator=data.get("separator", ""),
        fractions=data.get("split_fractions", (0.7, 0.1, 0.2)),
        names=names,
    )


def is_devkit(data: ConfigDict) -> bool:
    """Whether `of_config` reads the photos of a config's data as VOC's layout has them."""
    if not data.root:
        return True
    return not data.get("labels") and voc.find_devkit(user_path(data.root)) is not None


def name_of(data: ConfigDict) -> str:
    """What a config's data is called: its root's own name, unless `data.name` gives another."""
    if data.root and data.name in FETCHED:
        root = user_path(data.root).absolute()
        return printable(root.name or "photos", 60)
    return data.name


def file_label(data: ConfigDict) -> str:
    """How a file of a config's data is called; what `data.name` gives is in capitals."""
    return name_of(data) if data.root and data.name in FETCHED else data.name.upper()


def read(
    root: str | Path,
    *,
    labels: str | Path | None = None,
    flags: str = "yes_no",
    separator: str = "",
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    names: Mapping[str, str] = VOC_SPLITS,
) -> dict[str, Split]:
    """The splits of the photos below `root`, by role: train, val and test, if there is one.

    Args:
        root: a VOC devkit, a folder a class, or the folder of the photos that `labels` names.
        labels: a table (CSV, TSV) or a COCO file; relative to here or to `root`.
        flags: what the cells of a table mean, "yes_no" or "voc" (1, -1, and 0 for difficult).
        separator: what stands between labels in one cell; "" finds it, "none" is one label a cell.
        fractions: of train, val and test, where the data has no splits of its own.
        names: what the splits of the roles are called in the data; "" is none, but for `val`: then
            it is the data's own, if it isn't a devkit.

    Raises:
        UserError: the data can't be read or contradicts itself, or there is no such split.
    """
    root = user_path(root)
    check_choice("data.flags", flags, table.FLAGS)
    check_choice("data.separator", separator, ("", "none", *table.SEPARATORS))
    if labels is None and voc.find_devkit(root):
        return read_splits(find_root("", str(root)), names)
    read_as = _layout_of(root, labels, flags, separator)
    by_name = _parted(read_as, fractions)
    by_role = _by_role(root, by_name, names)
    for note in read_as.notes:
        logging.warning("%s", note)
    check_apart(by_role)
    return by_role


def table_of_counts(by_role: Mapping[str, Split]) -> str:
    """How many photos of each class a split has, aligned, and below it where there are few."""
    classes = by_role["train"].classes
    counts = np.stack([its.positives() for its in by_role.values()])
    columns = np.arange(len(classes))
    if len(classes) > MOST_SHOWN:  # the rarest
        columns = np.argsort(counts[0], kind="stable")[:MOST_SHOWN]
    rows = [["class", *by_role]]
    rows += [[printable(classes[c], 40), *map(str, counts[:, c])] for c in columns]
    if len(classes) > MOST_SHOWN:
        rows.append([f"and {len(classes) - MOST_SHOWN:,} more", *[""] * len(by_role)])
    rows.append(["photos", *(f"{len(its):,}" for its in by_role.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [
                f"{row[0]:<{widths[0]}}",
                *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    few = [
        f"{printable(classes[c], 40)} in {role} ({counts[n, c]})"
        for n, role in enumerate(by_role)
        for c in np.flatnonzero(counts[n] < FEW)
    ]
    if few:
        more = f" and {len(few) - 6} more" if few[6:] else ""
        lines.append(f"fewer than {FEW} photos: {', '.join(few[:6])}{more}")
    return "\n".join(line.rstrip() for line in lines)


def _layout_of(root: Path, labels: str | Path | None, flags: str, separator: str) -> Found:
    if not os.path.isdir(root):
        raise UserError(f"data root {printable(root)} is not a directory")
    files = found.list_folder(root)[1]
    if labels is not None:
        path = _labels_file(root, labels)
        if path.suffix.lower() == ".json":
            return coco.read([path], root)
        return table.read(path, root, flags=flags, separator=separator)
    if coco.is_layout(root):
        return coco.read(coco.files(root), root)
    if yolo.is_layout(root):
        return yolo.read(root)
    if folders.is_layout(root):
        return folders.read(root)
    remedy = "It may be a VOC devkit, a folder for each class, or photos with --config.data.labels."
    tables = [name for name in files if name.lower().endswith((".csv", ".tsv"))]
    if tables:
        remedy = f"Is it --config.data.labels={printable(tables[0], 60)}?"
    elif above := voc.devkit_above(root):
        remedy = f"It lies in a devkit: {printable(above)}."
    raise UserError(
        f"data root {printable(root)} is no layout that is known: it has no ImageSets/Main, no "
        f"annotations/{coco.PATTERN} and no folders with photos\n{remedy}"
    )


def _labels_file(root: Path, labels: str | Path) -> Path:
    path = user_path(labels)
    if not path.exists() and (root / path).exists():
        path = root / path
    if not path.is_file():
        raise UserError(f"data.labels: {printable(path)} is no file, here or in {printable(root)}")
    return path


def _parted(read_as: Found, fractions: Sequence[float]) -> dict[str, Split]:
    """The splits that the layout has, or else drawn ones, by name."""
    of_photo = read_as.splits
    groups: list[str] = []
    if of_photo is None or read_as.groups:
        stems = [stem(name) for name in read_as.names]
        groups = [its or own for its, own in zip(read_as.groups or stems, stems, strict=True)]
    if of_photo is None:
        of_photo = draw.drawn(groups, fractions)
    elif read_as.groups:
        _warn_of_torn_groups(read_as.groups, of_photo)
    names = np.array(of_photo)
    labels = one_hot_if_possible(read_as.labels, read_as.label_mask, read_as.difficult)
    by_name = {}
    for name in sorted(set(of_photo), key=_rank):
        rows = np.flatnonzero(names == name)
        ids = tuple(read_as.names[row] for row in rows)
        by_name[name] = Split(
            name=name,
            ids=ids,
            paths=PathsBelow(read_as.root, ids),
            labels=rows_of(labels, rows),
            label_mask=rows_of(read_as.label_mask, rows),
            difficult=rows_of(read_as.difficult, rows),
            classes=read_as.classes,
            ids_sha256=ids_sha256(ids),
            groups=tuple(groups[row] for row in rows) if read_as.groups else (),
        )
    return by_name


def _rank(name: str) -> tuple[int, str]:
    return ROLES.index(name) if name in ROLES else len(ROLES), name


def _warn_of_torn_groups(groups: list[str], of_photo: list[str]) -> None:
    first: dict[str, str] = {}
    torn = {
        group
        for group, split in zip(groups, of_photo, strict=True)
        if group and first.setdefault(group, split) != split
    }
    if torn:
        logging.warning("%d groups are in several splits: %s", len(torn), printable(min(torn), 60))


def _by_role(
    root: Path, by_name: Mapping[str, Split], names: Mapping[str, str]
) -> dict[str, Split]:
    """The splits that the roles ask for, by what they are called here or as VOC calls them."""
    by_role = {}
    asked_by_others = {found.split_name(asked) for asked in names.values()}
    for role, asked in names.items():
        name = found.split_name(asked)
        if asked == VOC_SPLITS[role] and name not in by_name:
            name = role
            if role == "val" and (role not in by_name or role in asked_by_others):
                continue
        if not asked and name != role:
            continue
        if name not in by_name:
            raise UserError(
                f"{printable(root)} has no split {printable(name, 60)}; its splits are "
                f"{printable(', '.join(by_name))}\n"
                f"Name one with --config.data.{role}_split=SPLIT."
            )
        by_role[role] = by_name[name]
    return by_role


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
        "Give a folder of photos with --config.data.root=PATH, such as PATH/VOCdevkit/YEAR."
    )


def read_splits(root: Path, names: Mapping[str, str]) -> dict[str, Split]:
    """A devkit's splits named in, say, {"train": "trainval", "val": "", "test": "test"}.

    Raises:
        UserError: as in `voc.read_split`, or the train split shares a photo with another.
    """
    by_role: dict[str, Split] = {}
    for role, name in names.items():
        if name:
            known = by_role["train"].classes if "train" in by_role else None
            by_role[role] = voc.read_split(root, name, known)
    check_apart(by_role)
    return by_role


def check_apart(by_role: Mapping[str, Split]) -> None:
    """Refuse a photo that train shares with another split, by name; warn of lone classes.

    Raises:
        UserError: the train split shares a photo with another.
    """
    train = by_role["train"]
    for role in by_role.keys() - {"train"}:
        other = by_role[role]
        shared = set(train.ids) & set(other.ids)
        if shared:
            raise UserError(
                f"data.train_split={train.name} and data.{role}_split={other.name} share "
                f"{len(shared)} photos, such as {min(shared)}: they must be disjoint"
            )
    _warn_of_lone_classes(by_role)


def _warn_of_lone_classes(by_role: Mapping[str, Split]) -> None:
    """Of classes that have photos in one split only: perhaps a slip of the pen."""
    if len(by_role) < 2:
        return
    counts = {
        split.name: split.positives() + np.sum(split.difficult, axis=0, dtype=np.int64)
        for split in by_role.values()
    }
    classes = next(iter(by_role.values())).classes
    lone = [
        f"{classes[column]} in {name} ({count[column]})"
        for column in np.flatnonzero((np.stack([*counts.values()]) > 0).sum(0) == 1)
        for name, count in counts.items()
        if count[column]
    ]
    if lone:
        logging.warning("a class has photos in one split alone: %s", printable("; ".join(lone)))
