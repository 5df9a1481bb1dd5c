"""What a network expects of its pixels. It belongs to the weights and travels with them."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

RESIZE_RULES = ("squash", "resize_crop", "squash_crop")
"""squash: resize both sides to one size. resize_crop: resize the short side, crop the centre.
squash_crop: squash to a larger size, crop the centre."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")

MAX_SIZE = 4096
"""Pixels on a side; a file that asks for more is damaged."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an upright RGB photo becomes a network's input.

    The rule `resize` resizes a photo with `interpolation` to `resize_size` pixels, `squash` to
    `crop_size`. At evaluation the network sees the central `crop_size` of them. Pixels 0..255
    become (pixel * scale - mean) / std, channel by channel in `channels` order.
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
        """A copy with another resize rule ("" keeps it) and crop size (0 keeps it)."""
        size = image_size or self.crop_size
        return dataclasses.replace(
            self,
            resize=resize or self.resize,
            crop_size=size,
            resize_size=round(self.resize_size * size / self.crop_size),
        )

    def stored_size(self, *, crops: bool) -> int:
        """The side in pixels of a stored photo, from which training may draw random crops."""
        return self.resize_size if crops or self.resize != "squash" else self.crop_size

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The inverse of `dataclasses.asdict`, also after a round trip through JSON.

        Raises:
            ValueError, TypeError, KeyError: no photo can be prepared with these `values`.
        """
        mean, std = (tuple(float(x) for x in values[name]) for name in ("mean", "std"))
        preprocessing = cls(
            **(values | {"mean": mean, "std": std, "scale": float(values["scale"])})
        )
        sizes = (preprocessing.crop_size, preprocessing.resize_size)
        is_possible = (
            preprocessing.channels in ("rgb", "bgr")
            and preprocessing.resize in RESIZE_RULES
            and preprocessing.interpolation in INTERPOLATIONS
            and all(type(size) is int for size in sizes)
            and 1 <= preprocessing.crop_size <= preprocessing.resize_size <= MAX_SIZE
            and len(mean) == len(std) == 3
            and all(math.isfinite(x) for x in (preprocessing.scale, *mean, *std))
            and min(preprocessing.scale, *std) > 0
        )
        if not is_possible:
            raise ValueError(f"no photo can be prepared with {preprocessing}"[:300])
        return preprocessing


TORCHVISION = Preprocessing()
CAFFE = Preprocessing(
    channels="bgr",
    scale=1.0,
    mean=(103.939, 116.779, 123.68),
    std=(1.0, 1.0, 1.0),
    interpolation="nearest",
)
"""Keras' ResNet50: BGR minus the mean, on the scale 0..255; `load_img` resizes by nearest."""

MICROSOFT = dataclasses.replace(TORCHVISION, interpolation="bicubic")
"""microsoft/resnet-50 on the Hugging Face hub."""

LAB = dataclasses.replace(CAFFE, resize="squash")
"""The lab sheet's: Keras' pixels, and the photo squashed to a square."""


def normalise(pixels: ArrayLike, preprocessing: Preprocessing) -> jax.Array:
    """RGB uint8 (or 0..255 float) pixels [B, H, W, 3] -> float32 network input [B, H, W, 3]."""
    x = jnp.asarray(pixels, jnp.float32)
    if preprocessing.channels == "bgr":
        x = x[..., ::-1]
    mean, std = jnp.asarray(preprocessing.mean), jnp.asarray(preprocessing.std)
    return (x * preprocessing.scale - mean) / std
