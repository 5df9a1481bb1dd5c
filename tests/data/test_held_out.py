import numpy as np
import pytest
from PIL import Image

from vtl.data.held_out import Rows, hold_out, near_duplicates
from vtl.errors import UserError


def photos(count, size=48, seed=0):
    """Coarse patterns, as unlike as photos are."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    bicubic = Image.Resampling.BICUBIC
    return np.stack([Image.fromarray(image).resize((size, size), bicubic) for image in coarse])


def saved_again(image):
    """Brighter, and a little noisy: the same photo from elsewhere."""
    noise = np.random.default_rng(1).normal(0, 3, image.shape)
    return np.clip(image * 0.9 + 10 + noise, 0, 255).astype(np.uint8)


def test_copies_are_one_group_and_others_are_not():
    images = photos(20)
    images[7], images[13] = images[3], saved_again(images[3])
    groups = near_duplicates(images)
    assert groups[3] == groups[7] == groups[13]
    assert len(np.unique(groups)) == 18


@pytest.mark.parametrize("seed", range(5))
def test_a_fifth_is_held_out_and_no_copy_is_on_both_sides(seed):
    images = photos(50)
    images[25:35] = images[15:25]
    held_out = hold_out(images, 0.2, seed)
    np.testing.assert_array_equal(held_out[25:35], held_out[15:25])
    assert 6 <= held_out.sum() <= 14
    np.testing.assert_array_equal(hold_out(images, 0.2, seed), held_out)


def test_another_seed_holds_out_others():
    assert (hold_out(photos(50), 0.2, 0) != hold_out(photos(50), 0.2, 1)).any()


@pytest.mark.parametrize("count", [1, 6])
def test_photos_that_are_all_alike_cannot_be_held_out(count):
    with pytest.raises(UserError, match=r"of 6|of 1"):
        hold_out(np.repeat(photos(1), count, axis=0), 0.2, 0)


def test_rows_are_a_view():
    images = photos(6)
    rows = Rows(images, np.array([4, 1]))
    assert (len(rows), rows.shape) == (2, (2, 48, 48, 3))
    np.testing.assert_array_equal(rows[np.array([1, 0, 0])], images[[1, 4, 4]])
