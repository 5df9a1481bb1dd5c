"""COCO's instances: a JSON file a split, whose objects become labels of their photos.

A class is in a photo that has an object of it; a photo with nothing but crowds of it
(`iscrowd`) is difficult. See https://cocodataset.org/#format-data.
"""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vtl.data.layouts import found
from vtl.data.layouts.found import Found
from vtl.data.split import every
from vtl.errors import UserError
from vtl.schema import count, list_of, maybe, number, of_file, record, text
from vtl.untrusted import printable, read_json

MAX_BYTES = 1 << 30
"""Of a file: more than that of COCO's 118,287 photos of 2017."""

PATTERN = "instances_*.json"

_CATEGORY = record({"id": count, "name": text})
_IMAGE = record({"id": number, "file_name": text})
_OBJECT = record({"image_id": number, "category_id": count}, {"iscrowd": maybe(number)})
_CONTENT = record(
    {
        "images": list_of(_IMAGE, least=1, most=MAX_BYTES),
        "categories": list_of(_CATEGORY, least=1),
    },
    {"annotations": list_of(_OBJECT, most=MAX_BYTES)},
)


def is_layout(root: Path) -> bool:
    """Whether it has annotations/instances_SPLIT.json."""
    return bool(files(root))


def files(root: Path) -> list[Path]:
    """The files of its splits."""
    return sorted((root / "annotations").glob(PATTERN))


def read(paths: Iterable[Path], root: Path) -> Found:
    """Read one file, or one a split called instances_SPLIT.json, of photos below `root`.

    Raises:
        UserError: a file is no COCO file, the files' categories differ, or a photo is missing.
    """
    paths = list(paths)
    names: list[str] = []
    splits: list[str] = []
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    classes: dict[int, str] | None = None
    for path in paths:
        with of_file(path):
            content = read_json(path, max_bytes=MAX_BYTES)
            _CONTENT(content, "")
            categories = _categories(content["categories"])
            if classes is not None and categories != classes:
                raise UserError(f"its categories are others than those of {printable(paths[0])}")
            classes = categories
            rows = _rows(content["images"])
            parts.append(_labels(content.get("annotations", []), rows, classes))
        split = path.stem.removeprefix("instances_")
        folders = [f"{split}/", f"images/{split}/", "images/", "JPEGImages/", ""]
        names += _photos(path, root, [image["file_name"] for image in content["images"]], folders)
        splits += [found.split_name(split.rstrip("0123456789_-") or split)] * len(rows)
    assert classes is not None
    twice = len(names) - len(set(names))
    if twice:
        raise UserError(f"{printable(paths[0])} and others list {twice} photos twice")
    labels, difficult = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Found(
        root,
        names,
        labels,
        label_mask=every(1, labels.shape),
        difficult=difficult,
        classes=tuple(classes.values()),
        splits=splits if len(paths) > 1 else None,
        notes=found.check_classes(classes.values(), paths[0]),
    )


def _categories(entries: list[dict[str, Any]]) -> dict[int, str]:
    """Id -> name, by id."""
    by_id = {entry["id"]: found.letters(entry["name"]) for entry in entries}
    if len(by_id) < len(entries) or len(set(by_id.values())) < len(entries):
        raise UserError("two of its categories have one id or one name")
    return dict(sorted(by_id.items()))


def _rows(images: list[dict[str, Any]]) -> dict[float, int]:
    rows = {image["id"]: row for row, image in enumerate(images)}
    if len(rows) < len(images):
        raise UserError("two of its images have one id")
    return rows


def _labels(
    objects: list[dict[str, Any]], rows: Mapping[float, int], classes: Mapping[int, str]
) -> tuple[np.ndarray, np.ndarray]:
    """labels and difficult flags [N, C]."""
    columns = {category: column for column, category in enumerate(classes)}
    labels = np.zeros((len(rows), len(classes)), np.uint8)
    crowds = np.zeros_like(labels)
    for place, thing in enumerate(objects):
        row, column = rows.get(thing["image_id"]), columns.get(thing["category_id"])
        if row is None or column is None:
            raise UserError(
                f"annotations[{place}] is of image {thing['image_id']} and category "
                f"{thing['category_id']}, of which one is not in the file"
            )
        (crowds if thing.get("iscrowd") else labels)[row, column] = 1
    return labels, crowds * (1 - labels)


def _photos(path: Path, root: Path, written: list[str], folders: list[str]) -> list[str]:
    """Where each photo lies: in the first of the folders that has the first photo."""
    listed = {
        folder: set(found.walk(root, folder.rstrip("/")))
        for folder in folders
        if (root / folder).is_dir()
    }
    folder = next((f for f in listed if f"{f}{written[0]}" in listed[f]), None)
    names = [] if folder is None else [f"{folder}{name}" for name in written]
    missing = [
        name
        for name, place in itertools.zip_longest(written, names)
        if folder is None or place not in listed[folder]
    ]
    if missing:
        raise UserError(
            f"{printable(path)}: {len(missing)} of {len(written)} photos are not below "
            f"{printable(root)}; the first is {printable(missing[0], 80)!r}\n"
            f"They are looked for in {', '.join(f or 'the root itself' for f in folders)}."
        )
    return names
