"""Devkits with any number of photos, and drawn photos; symlinks keep them small."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vtl.data import drawing, voc


def repeat_photos(root: Path, target: Path, splits: dict[str, int]) -> Path:
    """A devkit in `target` with `splits` (name -> number of photos), which repeats those of `root`.

    Each copy has an id of its own and the labels of its photo.
    """
    main = target / "ImageSets" / "Main"
    main.mkdir(parents=True)
    first = 0
    for name, num_photos in splits.items():
        split = voc.read_split(root, name)
        rows = np.arange(num_photos) % len(split)
        ids = link([split.paths[int(row)] for row in rows], target / "JPEGImages", first=first)
        flags = np.where(split.labels, 1, np.where(split.difficult, 0, -1))[rows]
        (main / f"{name}.txt").write_text("".join(f"{photo_id}\n" for photo_id in ids))
        for column, class_name in zip(flags.T, split.classes, strict=True):
            lines = [f"{photo_id} {flag:2d}\n" for photo_id, flag in zip(ids, column, strict=True)]
            (main / f"{class_name}_{name}.txt").write_text("".join(lines))
        first += num_photos
    return target


def link(paths: Sequence[Path], directory: Path, *, first: int = 0) -> list[str]:
    """Make symlinks to `paths` in `directory`, numbered from `first` on, and return their ids."""
    directory.mkdir(parents=True, exist_ok=True)
    ids = [f"{first + index:07d}" for index in range(len(paths))]
    for photo_id, path in zip(ids, paths, strict=True):
        (directory / f"{photo_id}.jpg").symlink_to(path.resolve())
    return ids


def draw_photos(directory: Path, num_photos: int) -> list[Path]:
    """Draw JPEGs of VOC's usual 500 x 375 pixels, in two colours with grain: always the same."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(0)
    paths = [directory / f"{index:03d}.jpg" for index in range(num_photos)]
    for path in paths:
        pixels = drawing.texture(rng, 500, 375, strength=1.0)
        Image.fromarray(pixels.round().astype(np.uint8)).save(path, quality=90)
    return paths
