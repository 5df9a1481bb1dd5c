"""A folder a class: ROOT/cat/1.jpg, or ROOT/train/cat/1.jpg, as torchvision's ImageFolder has it.

Each photo has one label, the first folder's name. Deeper folders are only places.
"""

from pathlib import Path

import numpy as np

from vtl.data.layouts import found
from vtl.data.layouts.found import Found
from vtl.data.split import OneHot, every
from vtl.errors import UserError
from vtl.untrusted import printable


def is_layout(root: Path) -> bool:
    """Whether `root` holds folders, of which one holds a photo somewhere."""
    folders, _ = found.list_folder(root)
    return any(_holds_photos(root, name) for name in folders if name[0] != ".")


def read(root: Path) -> Found:
    """Read which photos lie in which folder.

    Raises:
        UserError: a folder can't be read, photos lie beside the folders, or there is one class.
    """
    splits = {
        name: found.split_name(name)
        for name in _visible_folders(root)
        if found.split_name(name) in found.SPLIT_NAMES.values()
    }
    parts = [("", "")]
    if "train" in splits.values() and len(splits) > 1:
        _refuse_twice(root, splits)
        _refuse_beside(root, splits)
        parts = [(split, f"{folder}/") for folder, split in splits.items()]
    names: list[str] = []
    of_photo: list[str] = []
    of_split: list[str] = []
    others: list[str] = []
    for split, prefix in parts:
        for class_folder in _visible_folders(root / prefix):
            for name in found.walk(root, f"{prefix}{class_folder}"):
                if found.is_photo(name.rpartition("/")[2]):
                    names.append(name)
                    of_photo.append(found.letters(class_folder))
                    of_split.append(split)
                else:
                    others.append(name)
    classes = tuple(sorted(set(of_photo)))
    notes = found.check_classes(classes, root)
    if len(classes) < 2:
        only = f", {printable(classes[0], 60)}" if classes else ""
        raise UserError(
            f"{printable(root)} holds photos of {len(classes)} classes{only}\n"
            "Give each class a folder with its photos, or a table with --config.data.labels=FILE."
        )
    if others:
        notes.append(f"{len(others)} files are no photos by their names: {printable(others[0])}")
    columns = {name: column for column, name in enumerate(classes)}
    labels = OneHot(np.array([columns[name] for name in of_photo], np.int32), len(classes))
    return Found(
        root,
        names,
        labels,
        label_mask=every(1, labels.shape),
        difficult=every(0, labels.shape),
        classes=classes,
        splits=of_split if parts != [("", "")] else None,
        notes=notes,
    )


def _visible_folders(root: Path) -> list[str]:
    folders, files = found.list_folder(root)
    photos = [name for name in files if found.is_photo(name)]
    if photos:
        raise UserError(
            f"{printable(root)}: {len(photos)} photos lie beside the folders of the classes, such "
            f"as {printable(photos[0], 60)}\n"
            "Move them into folders of their classes, or give a table with --config.data.labels."
        )
    return [name for name in folders if name[0] != "." and _holds_photos(root, name)]


def _holds_photos(root: Path, folder: str) -> bool:
    return any(found.is_photo(name.rpartition("/")[2]) for name in found.walk(root, folder))


def _refuse_beside(root: Path, splits: dict[str, str]) -> None:
    others = [name for name in _visible_folders(root) if name not in splits]
    if others:
        raise UserError(
            f"{printable(root)}: folder {printable(others[0], 60)} stands beside the splits "
            f"{', '.join(splits)}\nMove it elsewhere, or rename the others if they are classes."
        )


def _refuse_twice(root: Path, splits: dict[str, str]) -> None:
    for split in set(splits.values()):
        if len(twins := [name for name, its in splits.items() if its == split]) > 1:
            raise UserError(
                f"{printable(root)}: folders {' and '.join(twins)} both name the split {split}: "
                "rename one"
            )
