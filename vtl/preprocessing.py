"""What a network expects of its pixels. It belongs to the weights and travels with them."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

RESIZE_RULES = ("squash", "resize_crop")
"""Both sides to one size; or the short side to it, then the centre."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")

MAX_SIZE = 4096
"""Pixels; a file that asks for larger ones is damaged."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From an upright RGB photo to a network's input.

    A photo is resized by `resize` (`squash` or `resize_crop`) with `interpolation` to `resize_size`
    pixels, of which the central `crop_size` are seen at evaluation. Pixels 0..255 become
    (pixel * scale - mean) / std, channel by channel in `channels` order.
    """

    channels: str = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    resize: str = "resize_crop"
    resize_size: int = 256
    crop_size: int = 224
    interpolation: str = "bilinear"

    def override(self, *, resize: str = "", image_size: int = 0) -> "Preprocessing":
        """Another resize rule ("" keeps it), another size of what is seen (0 keeps it)."""
        size = image_size or self.crop_size
        return dataclasses.replace(
            self,
            resize=resize or self.resize,
            crop_size=size,
            resize_size=round(self.resize_size * size / self.crop_size),
        )

    def stored_size(self, *, crops: bool) -> int:
        """The side a photo is stored at: larger than what is seen where crops are drawn from it."""
        return self.resize_size if crops or self.resize == "resize_crop" else self.crop_size

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The inverse of `dataclasses.asdict`, also after a round trip through JSON.

        Raises:
            ValueError, TypeError, KeyError: `values` are none of a preprocessing that can be done.
        """
        mean, std = (tuple(float(x) for x in values[name]) for name in ("mean", "std"))
        found = cls(**(values | {"mean": mean, "std": std, "scale": float(values["scale"])}))
        sizes, numbers = (found.crop_size, found.resize_size), (found.scale, *mean, *std)
        is_possible = (
            found.channels in ("rgb", "bgr")
            and found.resize in RESIZE_RULES
            and found.interpolation in INTERPOLATIONS
            and all(type(size) is int for size in sizes)
            and 1 <= found.crop_size <= found.resize_size <= MAX_SIZE
            and len(mean) == len(std) == 3
            and all(math.isfinite(x) for x in numbers)
            and min(found.scale, *std) > 0
        )
        if not is_possible:
            raise ValueError(f"no photo can be prepared as {found}"[:300])
        return found


TORCHVISION = Preprocessing()
CAFFE = Preprocessing(
    channels="bgr",
    scale=1.0,
    mean=(103.939, 116.779, 123.68),
    std=(1.0, 1.0, 1.0),
    interpolation="nearest",
)
"""Keras' ResNet50: BGR minus the mean, pixels left at 0..255; `load_img` resizes by nearest."""

LAB = dataclasses.replace(CAFFE, resize="squash")
"""Keras' pixels, the whole photo squashed to a square: what the lab sheet does."""


def normalise(pixels: ArrayLike, preprocessing: Preprocessing) -> jax.Array:
    """RGB uint8 (or 0..255 float) pixels [B, H, W, 3] -> float32 network input [B, H, W, 3]."""
    x = jnp.asarray(pixels, jnp.float32)
    if preprocessing.channels == "bgr":
        x = x[..., ::-1]
    mean, std = jnp.asarray(preprocessing.mean), jnp.asarray(preprocessing.std)
    return (x * preprocessing.scale - mean) / std
