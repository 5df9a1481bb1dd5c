"""Augmentation on the device: a pure function of a key and the images."""

import jax
import jax.numpy as jnp

KINDS = ("none", "flip", "crop_flip")


def centre_crop(images: jax.Array, size: int) -> jax.Array:
    """The central size x size of images [B, H, W, 3], H and W at least `size`."""
    top, left = (round((side - size) / 2) for side in images.shape[1:3])
    return images[:, top : top + size, left : left + size]


def _flip(key: jax.Array, images: jax.Array) -> jax.Array:
    flipped = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def _random_crop(key: jax.Array, images: jax.Array, size: int) -> jax.Array:
    batch, height, width, channels = images.shape
    corners = jax.random.randint(
        key, (batch, 2), 0, jnp.array([height - size + 1, width - size + 1])
    )

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, channels))

    return jax.vmap(crop)(images, corners)


def augment(key: jax.Array, images: jax.Array, *, kind: str, size: int) -> jax.Array:
    """uint8 images [B, H, W, 3] -> [B, size, size, 3] by `none`, `flip` or `crop_flip`."""
    if kind == "none":
        return centre_crop(images, size)
    crop_key, flip_key = jax.random.split(key)
    if kind == "crop_flip":
        return _flip(flip_key, _random_crop(crop_key, images, size))
    return _flip(flip_key, centre_crop(images, size))
