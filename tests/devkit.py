"""Tiny VOC devkits for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vtl.data.voc import CLASSES


def write_devkit(
    root: Path,
    splits: dict[str, int],
    classes: Sequence[str] = CLASSES,
    size: int = 32,
    seed: int = 0,
    with_class_files: bool = True,
    with_annotations: bool = False,
) -> Path:
    """Write root/VOCdevkit/VOC2007 with `splits` (name -> photos) and return its path.

    Photos are size x 3/4 size noise with a patch in a place and colour of its own for each class
    that is present, so that a network can learn them. Photo i of a split has class i modulo C.
    """
    rng = np.random.default_rng(seed)
    devkit = Path(root) / "VOCdevkit" / "VOC2007"
    main = devkit / "ImageSets" / "Main"
    for directory in (main, devkit / "JPEGImages", devkit / "Annotations"):
        directory.mkdir(parents=True)
    if not with_annotations:
        (devkit / "Annotations").rmdir()
    colours = rng.integers(0, 256, (len(classes), 3))
    corners = rng.random((len(classes), 2)) * 0.75
    count = 0
    for split, num_photos in splits.items():
        ids = [f"{count + 1 + i:06d}" for i in range(num_photos)]
        count += num_photos
        flags = rng.choice([-1, 1, 0], (num_photos, len(classes)), p=[0.8, 0.15, 0.05])
        flags[np.arange(num_photos), np.arange(num_photos) % len(classes)] = 1
        _write_rows(main / f"{split}.txt", ids)
        for photo_id, row in zip(ids, flags, strict=True):
            photo = rng.integers(0, 256, (size * 3 // 4, size, 3), dtype=np.uint8)
            for index in np.flatnonzero(row >= 0):
                top, left = (corners[index] * photo.shape[:2]).astype(int)
                photo[top : top + size // 4, left : left + size // 4] = colours[index]
            Image.fromarray(photo).save(devkit / "JPEGImages" / f"{photo_id}.jpg", quality=95)
            if with_annotations:
                objects = {name: flag for name, flag in zip(classes, row, strict=True) if flag >= 0}
                write_annotation(devkit / "Annotations" / f"{photo_id}.xml", objects)
        if with_class_files:
            for name, column in zip(classes, flags.T, strict=True):
                rows = [f"{photo_id} {flag:2d}" for photo_id, flag in zip(ids, column, strict=True)]
                _write_rows(main / f"{name}_{split}.txt", rows)
    return devkit


def _write_rows(path: Path, rows: list[str]) -> None:
    path.write_text("".join(f"{row}\n" for row in rows))


def write_annotation(path: Path, objects: dict[str, int]) -> None:
    """Write class -> flag (1 plain, 0 difficult) as an annotation file."""
    text = "".join(
        f"<object><name>{name}</name><difficult>{1 - flag}</difficult></object>"
        for name, flag in objects.items()
    )
    path.write_text(f"<annotation>{text}</annotation>\n")
