"""Small photos under hostile names, for the layouts' tests."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

HOSTILE = (
    "two words.jpg",
    unicodedata.normalize("NFC", "Ärger.png"),
    unicodedata.normalize("NFD", "Öl.webp"),
    "a#b.JPG",
    'it\'s "one".jpeg',
    ".dot.jpg",
    f"{'x' * 200}.jpg",
    "Twin.png",
    "twin.png",
    "comma, semicolon; bar|.jpg",
    "per%20cent.bmp",
    "-dash.jpg",
    "%s{0}.jpg",
    "日本.jpg",
)
"""Names of files that people have, and that break what takes names for something else."""


def write_photo(path: Path, seed: int, size: int = 24) -> Path:
    """A photo of noise over a colour of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 40, (size, size, 3)) + rng.integers(0, 200, 3)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def write_photos(root: Path, names: Iterable[str], first: int = 0) -> list[str]:
    """Photos of these names below `root`; returns the names."""
    names = list(names)
    for number, name in enumerate(names, start=first):
        write_photo(root / name, number)
    return names
