"""The demo's devkit: scenes with handwritten digits, in VOC's layout.

Each of 1,000 scenes shows one to four of scikit-learn's bundled digits (8 x 8 pixels of real
handwriting; the UCI optical digits of Alpaydin and Kaynak 1998), scaled, turned and coloured, on a
textured background. There are ten classes, and an image may have several. A very small or faint
digit is marked difficult. No handwritten digit is in two splits.
"""

import itertools
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from vtl.data import drawing
from vtl.errors import UserError
from vtl.files import locked, remove_litter, whole_directory
from vtl.untrusted import reason_of

VERSION = 1
"""Raise it whenever the scenes change. Their ids begin with it."""

NAME = f"demo-v{VERSION}"
"""Of its folder in the cache."""

SPLITS = {"train": 300, "val": 200, "test": 500}
PERCENTS = (10, 30)
"""The first 10 and 30 percent of trainval are splits too, `trainval10` and `trainval30`."""

CLASSES = tuple("0123456789")
SIDES = (96, 192)
"""The least and the greatest width and height of a scene, in pixels."""

SIZES = (0.12, 0.45)
"""The least and the greatest side of a digit's square, as a share of the scene's shorter side. The
digit is then turned and cut to its ink."""

SMALL, FAINT = 0.15, 0.35
"""A digit is marked difficult below this share of the shorter side, or below this opacity."""

_STREAM = ord("d")
"""Keeps these random numbers apart from those of other drawn data."""

_OVERLAP = 0.1
_ATTEMPTS = 20


Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels; right and bottom are just outside."""


class Digit(NamedTuple):
    """One digit of a scene."""

    name: str
    box: Box
    difficult: bool


def write_once(directory: Path) -> Path:
    """Write the demo's devkit into `directory` if it isn't there yet; returns its year's path.

    Of several processes one draws it, and the others wait.

    Raises:
        UserError: it can't be written.
    """
    target = directory / NAME
    if not target.exists():
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with locked(target):
                if not target.exists():
                    remove_litter(directory)
                    with whole_directory(target) as unfinished:
                        write_devkit(unfinished / "VOCdevkit" / "VOCdemo")
        except OSError as error:
            raise UserError(
                f"cannot write the demo's photos to {directory}: {reason_of(error)}\n"
                "Set VTL_CACHE to move the cache elsewhere."
            ) from error
    return target / "VOCdevkit" / "VOCdemo"


def write_devkit(root: Path) -> None:
    """Write JPEGImages, Annotations and ImageSets/Main for `SPLITS`, trainval and its parts.

    `root` must not exist.
    """
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    handwriting = _split_digits()
    members: dict[str, dict[str, list[Digit]]] = {}
    for index, (split, num_scenes) in enumerate(SPLITS.items()):
        scenes = {}
        for number in range(num_scenes):
            scene_id = f"{VERSION}{index}{number:04d}"
            rng = np.random.default_rng((_STREAM, VERSION, index, number))
            photo, scenes[scene_id] = draw_scene(rng, handwriting[split])
            photo.save(root / "JPEGImages" / f"{scene_id}.jpg", quality=90)
            _write_annotation(root / "Annotations" / f"{scene_id}.xml", photo, scenes[scene_id])
        members[split] = scenes
    members["trainval"] = members["train"] | members["val"]
    for percent in PERCENTS:
        first = itertools.islice(
            members["trainval"].items(), len(members["trainval"]) * percent // 100
        )
        members[f"trainval{percent}"] = dict(first)
    for split, scenes in members.items():
        _write_split(root / "ImageSets" / "Main", split, scenes)


def draw_scene(
    rng: np.random.Generator, handwriting: dict[str, np.ndarray]
) -> tuple[Image.Image, list[Digit]]:
    """Draw one scene with the handwriting {class: [N, 8, 8] in 0..1} of its split."""
    width, height = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    scene = drawing.texture(rng, width, height, strength=rng.uniform(0, 1))
    digits: list[Digit] = []
    for name in rng.choice(CLASSES, rng.integers(1, 5)):
        mask = _render(rng, rng.choice(handwriting[name]), min(width, height))
        for _ in range(_ATTEMPTS):
            left = int(rng.integers(width - mask.shape[1] + 1))
            top = int(rng.integers(height - mask.shape[0] + 1))
            box = left, top, left + mask.shape[1], top + mask.shape[0]
            if all(_overlap(box, other.box) <= _OVERLAP for other in digits):
                digits.append(_paint(rng, scene, str(name), mask, box))
                break
    return Image.fromarray(scene.round().astype(np.uint8)), digits


def _split_digits() -> dict[str, dict[str, np.ndarray]]:
    """The handwriting of every split and class, shared out as the scenes are."""
    # scikit-learn takes as long to import as JAX, and the scenes are made but once.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    rng = np.random.default_rng((_STREAM, VERSION))
    ends = np.cumsum(list(SPLITS.values())) / sum(SPLITS.values())
    handwriting: dict[str, dict[str, np.ndarray]] = {split: {} for split in SPLITS}
    for name in CLASSES:
        images = rng.permutation(bunch.images[bunch.target == int(name)]) / 16
        parts = np.split(images, (ends[:-1] * len(images)).astype(int))
        for split, part in zip(SPLITS, parts, strict=True):
            handwriting[split][name] = part
    return handwriting


def _render(rng: np.random.Generator, digit: np.ndarray, shorter_side: int) -> np.ndarray:
    """The opacity [H, W] of one digit, enlarged, turned and cut to its ink."""
    size = round(shorter_side * rng.uniform(*SIZES))
    image = Image.fromarray((255 * digit).astype(np.uint8)).resize((size, size))
    image = image.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, expand=True)
    mask = np.asarray(image, np.float64) / 255
    rows, columns = (np.flatnonzero((mask > 0.2).any(axis=axis)) for axis in (1, 0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _paint(
    rng: np.random.Generator, scene: np.ndarray, name: str, mask: np.ndarray, box: Box
) -> Digit:
    left, top, right, bottom = box
    opacity = rng.uniform(0.25, 1)
    drawing.paint(rng, scene[top:bottom, left:right], opacity * mask)
    is_small = max(mask.shape) < SMALL * min(scene.shape[:2])
    return Digit(name, box, bool(is_small or opacity < FAINT))


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def _write_annotation(path: Path, photo: Image.Image, digits: list[Digit]) -> None:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "folder").text = "VOCdemo"
    ElementTree.SubElement(root, "filename").text = f"{path.stem}.jpg"
    size = ElementTree.SubElement(root, "size")
    for tag, value in (("width", photo.width), ("height", photo.height), ("depth", 3)):
        ElementTree.SubElement(size, tag).text = str(value)
    for digit in digits:
        node = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(node, "name").text = digit.name
        ElementTree.SubElement(node, "difficult").text = str(int(digit.difficult))
        box = ElementTree.SubElement(node, "bndbox")
        left, top, right, bottom = digit.box  # VOC counts pixels from 1 and includes both ends
        for tag, value in zip(
            ("xmin", "ymin", "xmax", "ymax"), (left + 1, top + 1, right, bottom), strict=True
        ):
            ElementTree.SubElement(box, tag).text = str(value)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path)


def _write_split(directory: Path, split: str, scenes: dict[str, list[Digit]]) -> None:
    (directory / f"{split}.txt").write_text("".join(f"{scene_id}\n" for scene_id in scenes))
    for name in CLASSES:
        rows = [f"{scene_id} {_flag(name, digits):2d}\n" for scene_id, digits in scenes.items()]
        (directory / f"{name}_{split}.txt").write_text("".join(rows))


def _flag(name: str, digits: list[Digit]) -> int:
    """VOC's flag of a class: 1 present, 0 only as difficult objects, -1 absent."""
    are_difficult = [digit.difficult for digit in digits if digit.name == name]
    if not are_difficult:
        return -1
    return 0 if all(are_difficult) else 1
