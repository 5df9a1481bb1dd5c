"""The source task of the demo's network: endless pictures of one letter or shape each.

The classes are the capital letters, fourteen lower-case ones that look different, and eight shapes.
Letters are in Pillow's bundled font. A glyph is bent, turned, blurred and coloured, on a plain or
textured background. No class is a digit, though O and I look much like 0 and 1.
"""

import functools

import numpy as np
import scipy
from PIL import Image, ImageDraw, ImageFont

from vtl.data import drawing

VERSION = 1
"""Raise it whenever the pictures change."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abdefghmnqrtuy"
SHAPES = ("disc", "ring", "square", "triangle", "cross", "star", "arrow", "crescent")
CLASSES = (*LETTERS, *SHAPES)
SIZES = (0.5, 1.0)
"""The least and the greatest side of a glyph's square, as a share of the picture's."""

OPACITIES = (0.4, 1.0)
"""The least and the greatest opacity of the paint."""

_MASTER = 64  # pixels on a side of a glyph before it is bent
_STROKES = (0, 1, 2, 4)


class Glyphs:
    """Pictures uint8 [N, side, side, 3], drawn when they are asked for.

    Picture i and its class are a function of (seed, i).
    """

    def __init__(self, num_images: int, side: int, seed: int):
        self.shape = (num_images, side, side, 3)
        self._seed = seed
        self.labels = np.random.default_rng((VERSION, seed)).integers(len(CLASSES), size=num_images)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """The pictures [len(rows), side, side, 3] of an array of row numbers."""
        return np.stack([self._draw(int(row)) for row in rows])

    def _draw(self, row: int) -> np.ndarray:
        side = self.shape[1]
        rng = np.random.default_rng((VERSION, self._seed, row))
        # Half the backgrounds are plain, because a network learns from easy pictures first.
        picture = drawing.texture(rng, side, side, strength=max(0.0, rng.uniform(-1, 1)))
        master = _master(CLASSES[self.labels[row]], int(rng.choice(_STROKES)))
        mask = _bend(rng, master, side)
        top, left = (int(rng.integers(side - extent + 1)) for extent in mask.shape)
        below = picture[top : top + mask.shape[0], left : left + mask.shape[1]]
        drawing.paint(rng, below, rng.uniform(*OPACITIES) * mask)
        return picture.round().astype(np.uint8)


def _bend(rng: np.random.Generator, master: np.ndarray, side: int) -> np.ndarray:
    """The opacity [H, W] of a glyph that is sheared, turned, bent, and coarse as a small scan."""
    size = round(side * rng.uniform(*SIZES))
    scale = master.shape[0] / size * np.exp(rng.normal(0, 0.12, 2))
    angle, shear = rng.uniform(-0.4, 0.4), rng.uniform(-0.3, 0.3)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, shear], [0, 1]]) * scale[:, None]
    axis = np.arange(size) - (size - 1) / 2
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij")).reshape(2, -1)
    shifts = np.stack([_smooth_noise(rng, size) for _ in range(2)]).reshape(2, -1)
    positions = matrix @ grid + shifts + (master.shape[0] - 1) / 2
    mask = scipy.ndimage.map_coordinates(master, positions, order=1).reshape(size, size)
    coarse = int(rng.integers(8, 25))
    if coarse < size:
        image = Image.fromarray(mask.astype(np.float32)).resize((coarse, coarse))
        mask = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    return np.clip(mask, 0, 1)


def _smooth_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    noise = Image.fromarray(rng.normal(0, 2.5, (4, 4)).astype(np.float32))
    return np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC))


@functools.cache
def _master(name: str, stroke: int) -> np.ndarray:
    """The opacity [_MASTER, _MASTER] of a glyph before it is bent."""
    image = Image.new("L", (4 * _MASTER, 4 * _MASTER))
    pen = ImageDraw.Draw(image)
    if name in SHAPES:
        _draw_shape(pen, name, 4 * _MASTER, width=4 * (3 + 2 * stroke))
    else:
        font = ImageFont.load_default(3 * _MASTER)
        middle = (2 * _MASTER, 2 * _MASTER)
        pen.text(middle, name, fill=255, font=font, anchor="mm", stroke_width=3 * stroke)
    return np.asarray(image.resize((_MASTER, _MASTER)), np.float64) / 255


def _draw_shape(pen: ImageDraw.ImageDraw, name: str, side: int, width: int) -> None:
    low, high, middle = side * 0.15, side * 0.85, side / 2
    box = (low, low, high, high)
    if name == "disc":
        pen.ellipse(box, fill=255)
    elif name == "ring":
        pen.ellipse(box, outline=255, width=width)
    elif name == "square":
        pen.rectangle(box, outline=255, width=width)
    elif name == "triangle":
        pen.polygon([(middle, low), (high, high), (low, high)], outline=255, width=width)
    elif name == "cross":
        pen.line((low, middle, high, middle), fill=255, width=width)
        pen.line((middle, low, middle, high), fill=255, width=width)
    elif name == "star":
        angles = np.pi * np.arange(10) / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2, 0.15, 0.38) * side
        points = zip(middle + radii * np.cos(angles), middle + radii * np.sin(angles), strict=True)
        pen.polygon([(float(x), float(y)) for x, y in points], fill=255)
    elif name == "arrow":
        pen.line((low, middle, high, middle), fill=255, width=width)
        pen.line((middle, low, high, middle, middle, high), fill=255, width=width)
    else:
        pen.ellipse(box, fill=255)
        pen.ellipse((side * 0.35, low, side * 1.05, high), fill=0)
