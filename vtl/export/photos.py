"""Which photos an exported file is tried on, and how they become what the network sees."""

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from vtl import schema
from vtl.data import images
from vtl.data.photo_files import SUFFIXES
from vtl.errors import UserError
from vtl.files import user_path
from vtl.preprocessing import Preprocessing
from vtl.untrusted import printable, read_npz
from vtl.weights.verify import pictures

NUM_BUILT_IN = 16
MOST_OF_A_GALLERY = 64
_MAX_SIDE = 1024
"""Of a thumbnail; a gallery's have 112 pixels."""


Picture = Callable[[], np.ndarray]


class Photos(NamedTuple):
    """Photos to try a network on.

    `pictures` give RGB uint8 [H, W, 3] of any size when they are called, `crops` [N, S, S, 3] are
    what the network sees of each, and `source` says in words where they come from.
    """

    pictures: Sequence[Picture]
    crops: np.ndarray
    source: str


def given(paths: Sequence[str], preprocessing: Preprocessing, most: int) -> Photos:
    """The photos of a command line's files and folders, at most so many.

    Raises:
        UserError: a file is missing or no photo, or a folder holds none.
    """
    found: list[Path] = []
    for path in map(user_path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if not inside:
            raise UserError(f"--photos: there is no photo in {printable(path)}")
        found += inside
    chosen = [functools.partial(_read, path) for path in found[:most]]
    return _of(chosen, preprocessing, f"{len(chosen)} photos of --photos")


def _read(path: Path) -> np.ndarray:
    return np.asarray(images.load_rgb(path))


def of_gallery(path: Path, preprocessing: Preprocessing) -> Photos:
    """The photos of a run's gallery, enlarged from their thumbnails.

    Raises:
        UserError: the file is damaged.
    """
    arrays = read_npz(path)
    with schema.of_file(path):
        packed = schema.array(arrays, "thumbnails", "u", ("bytes",)).astype(np.uint8).tobytes()
        ends = schema.indices(arrays, "ends", ("U",), len(packed) + 1)[:MOST_OF_A_GALLERY]
        chosen = [
            functools.partial(_thumbnail, packed[start:end])
            for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)
        ]
        return _of(chosen, preprocessing, f"{len(chosen)} photos of the run's {path.name}")


def _thumbnail(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        if max(image.size) > _MAX_SIDE:
            raise UserError(f"a thumbnail has {image.size} pixels")
        return np.asarray(image.convert("RGB"))


def built_in(preprocessing: Preprocessing) -> Photos:
    """The two photos of scikit-learn, whole, and square parts of them."""
    whole = list(load_sample_images().images)
    parts = pictures.photo_crops(NUM_BUILT_IN - len(whole), max(64, preprocessing.crop_size))
    chosen = [functools.partial(np.asarray, picture) for picture in (*whole, *parts)]
    return _of(chosen, preprocessing, f"{NUM_BUILT_IN} parts of two photos")


def to_crop(picture: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """RGB uint8 [H, W, 3] of any size -> what the network sees, uint8 [S, S, 3]."""
    resized = images.resize(
        Image.fromarray(picture),
        preprocessing.stored_size(crops=False),
        preprocessing.resize,
        preprocessing.interpolation,
    )
    return centre(resized, preprocessing)


def centre(stored: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The central crop of a photo as it is stored, uint8 [R, R, 3] -> [S, S, 3]."""
    size = preprocessing.crop_size
    start = round((len(stored) - size) / 2)
    return stored[start : start + size, start : start + size]


def _of(pictures: Sequence[Picture], preprocessing: Preprocessing, source: str) -> Photos:
    crops = [to_crop(picture(), preprocessing) for picture in pictures]
    return Photos(pictures, np.stack(crops), source)
