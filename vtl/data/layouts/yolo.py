"""YOLO's label folders: images/SPLIT/1.jpg beside labels/SPLIT/1.txt, and the classes' names.

A line of a label file is `CLASS x y width height`; a photo without a file, or with an empty one,
shows none of the classes. The names stand in data.yaml or classes.txt.
See https://docs.ultralytics.com/datasets/detect/.
"""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vtl.data.layouts import found
from vtl.data.layouts.found import Found
from vtl.data.photo_files import without_suffix
from vtl.data.split import every
from vtl.errors import UserError
from vtl.untrusted import open_plain, printable, reading

MAX_BYTES = 1 << 24
"""Of a label file, and of the file of names."""


def is_layout(root: Path) -> bool:
    """Whether it has images, labels and the classes' names."""
    has_folders = (root / "images").is_dir() and (root / "labels").is_dir()
    return has_folders and _names_file(root) is not None


def read(root: Path) -> Found:
    """Read all splits; the photos may also lie in images/ itself.

    Raises:
        UserError: a file means nothing, or there is no photo.
    """
    path = _names_file(root)
    assert path is not None
    classes = _class_names(path)
    notes = found.check_classes(classes, path)
    names = [name for name in found.walk(root, "images") if found.is_photo(name.rpartition("/")[2])]
    if not names:
        raise UserError(f"{printable(root / 'images')} holds no photo")
    written = set(found.walk(root, "labels"))
    labels = np.zeros((len(names), len(classes)), np.uint8)
    for row, name in enumerate(names):
        label_file = f"labels/{without_suffix(name).removeprefix('images/')}.txt"
        if label_file in written:
            labels[row, _columns(root / label_file, len(classes))] = 1
    if not labels.any():
        raise UserError(f"{printable(root / 'labels')} has no label of any photo in images")
    folders = [name.split("/")[1:-1] for name in names]
    has_splits = all(folders)
    return Found(
        root,
        names,
        labels,
        label_mask=every(1, labels.shape),
        difficult=every(0, labels.shape),
        classes=classes,
        splits=[found.split_name(folder[0]) for folder in folders] if has_splits else None,
        notes=notes,
    )


def _names_file(root: Path) -> Path | None:
    files = found.list_folder(root)[1]
    yamls = [name for name in files if name.endswith((".yaml", ".yml"))]
    if "classes.txt" not in files and len(yamls) != 1 and "data.yaml" not in files:
        return None
    name = next((n for n in ("data.yaml", "classes.txt") if n in files), None) or yamls[0]
    return root / name


def _class_names(path: Path) -> tuple[str, ...]:
    with open_plain(path, max_bytes=MAX_BYTES) as file, reading(path):
        content = file.read().decode("utf-8-sig")
        if path.suffix == ".txt":
            names: Any = [line.strip() for line in content.splitlines() if line.strip()]
        else:
            parsed = yaml.load(content, Loader=yaml.CSafeLoader)
            names = parsed.get("names") if isinstance(parsed, dict) else None
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise UserError(f"{printable(path)} has no list of the classes' names, `names`")
    if len(set(names)) < len(names):
        raise UserError(f"{printable(path)}: two classes have one name")
    return tuple(map(found.letters, names))


def _columns(path: Path, num_classes: int) -> list[int]:
    with open_plain(path, max_bytes=MAX_BYTES) as file, reading(path):
        lines = file.read().decode("utf-8-sig").splitlines()
    columns = []
    for place, line in enumerate(lines, start=1):
        if line.strip():
            number = line.split()[0]
            if not number.isdecimal() or len(number) > 9 or int(number) >= num_classes:
                raise UserError(
                    f"{printable(path)}, line {place}: {printable(number, 40)!r} is no class from "
                    f"0 to {num_classes - 1}"
                )
            columns.append(int(number))
    return columns
