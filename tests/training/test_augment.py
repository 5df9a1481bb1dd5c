import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtl.training.augment import augment, centre_crop

KEY = jax.random.key(0)


def numbered(batch, height, width):
    """Images whose pixels are (row, column, image), so that a crop tells where it was taken."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, np.zeros_like(rows)], axis=-1)
    images = np.repeat(image[None], batch, axis=0)
    images[..., 2] = np.arange(batch)[:, None, None] % 256
    return images.astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "top", "left"),
    [(8, 8, 0, 0), (9, 10, 0, 1), (11, 12, 2, 2), (13, 14, 2, 3), (15, 8, 4, 0)],
)
def test_centre_crop_starts_where_torchvisions_does(height, width, top, left):
    # torchvision's center_crop: int(round((side - size) / 2)), which rounds halves to even.
    crop = np.asarray(centre_crop(jnp.asarray(numbered(2, height, width)), 8))
    assert crop.shape == (2, 8, 8, 3)
    assert crop.dtype == np.uint8
    assert crop[1, 0, 0].tolist() == [top, left, 1]
    assert crop[1, -1, -1].tolist() == [top + 7, left + 7, 1]


def test_none_is_the_identity_at_equal_size():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    assert np.array_equal(augment(KEY, images, kind="none", size=8), images)


def test_none_is_the_centre_crop():
    images = numbered(2, 12, 10)
    augmented = augment(KEY, images, kind="none", size=8)
    assert np.array_equal(augmented, images[:, 2:10, 1:9])


@pytest.mark.parametrize("kind", ["none", "flip", "crop_flip"])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (11, 9)])
def test_shape_and_dtype(kind, height, width):
    augmented = augment(KEY, numbered(5, height, width), kind=kind, size=8)
    assert augmented.shape == (5, 8, 8, 3)
    assert augmented.dtype == jnp.uint8


def test_flip_turns_whole_images_left_to_right():
    images = np.random.default_rng(0).integers(0, 256, (200, 6, 6, 3), np.uint8)
    augmented = np.asarray(augment(KEY, images, kind="flip", size=6))
    kept = (augmented == images).all(axis=(1, 2, 3))
    flipped = (augmented == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (kept ^ flipped).all()
    # 200 fair coins: 4 standard deviations are 28.
    assert 72 <= flipped.sum() <= 128


def test_flip_takes_the_centre_crop():
    augmented = np.asarray(augment(KEY, numbered(40, 12, 10), kind="flip", size=8))
    assert (augmented[..., 0] == np.arange(2, 10)[:, None]).all()
    assert {tuple(image[0, :, 1].tolist()) for image in augmented} == {
        tuple(range(1, 9)),
        tuple(range(8, 0, -1)),
    }


def test_crops_stay_inside_and_reach_every_offset_either_way_round():
    images = numbered(2000, 10, 11)
    augmented = np.asarray(augment(KEY, images, kind="crop_flip", size=8)).astype(int)
    offsets = set()
    for index, image in enumerate(augmented):
        flipped = image[0, 0, 1] > image[0, -1, 1]
        upright = image[:, ::-1] if flipped else image
        top, left, _ = upright[0, 0]
        crop = images[index, top : top + 8, left : left + 8]
        assert np.array_equal(upright, crop), f"image {index} is not a crop of itself"
        offsets.add((top, left, bool(flipped)))
    assert offsets == {(t, x, f) for t in range(3) for x in range(4) for f in (False, True)}


def test_flips_do_not_follow_the_crops():
    augmented = np.asarray(augment(KEY, numbered(2000, 9, 8), kind="crop_flip", size=8)).astype(int)
    top = augmented[:, 0, 0, 0]
    flipped = augmented[:, 0, 0, 1] > augmented[:, 0, -1, 1]
    for offset in (0, 1):
        # About 1000 fair coins each: 5 standard deviations of their mean are 0.08.
        assert flipped[top == offset].mean() == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("kind", ["flip", "crop_flip"])
def test_a_function_of_the_key(kind):
    images = numbered(50, 12, 12)
    first, again, other = (
        np.asarray(augment(jax.random.key(seed), images, kind=kind, size=8)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
