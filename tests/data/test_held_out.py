import numpy as np
import pytest
from PIL import Image, ImageDraw

from vtl.data import held_out
from vtl.data.duplicates import groups_of, near_duplicates
from vtl.data.held_out import Rows
from vtl.data.split import Split, every, ids_sha256


def photos(count, size=48, seed=0):
    """Coarse patterns, as unlike as photos are."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    bicubic = Image.Resampling.BICUBIC
    return np.stack([Image.fromarray(image).resize((size, size), bicubic) for image in coarse])


def products(count, size=96, seed=0):
    """Boxes of any shape and colour on white: most of each photo is the same."""
    rng, images = np.random.default_rng(seed), []
    for _ in range(count):
        image = Image.new("RGB", (size, size), "white")
        left, top = rng.integers(5, 45, 2)
        box = (left, top, *(rng.integers(50, 90, 2)))
        ImageDraw.Draw(image).rectangle(box, fill=tuple(rng.integers(0, 200, 3).tolist()))
        images.append(np.asarray(image))
    return np.stack(images)


def saved_again(image):
    """Darker, and a little noisy: the same photo from elsewhere."""
    noise = np.random.default_rng(1).normal(0, 3, image.shape)
    return np.clip(image * 0.9 + 10 + noise, 0, 255).astype(np.uint8)


def split_of(images, groups=()):
    ids = tuple(f"{row:06d}" for row in range(len(images)))
    ones, zeros = (every(value, (len(ids), 1)) for value in (1, 0))
    return Split("train", ids, (), ones, ones, zeros, ("cat",), ids_sha256(ids), tuple(groups))


def hold_out(images, share, seed, groups=()):
    split = split_of(images, groups)
    return held_out.hold_out(split.ids, groups_of(images, split), share, seed)


def test_copies_are_one_group_and_others_are_not():
    images = photos(20)
    images[7], images[13] = images[3], saved_again(images[3])
    groups = near_duplicates(images)
    assert groups[3] == groups[7] == groups[13]
    assert len(np.unique(groups)) == 18


def test_products_on_white_are_not_all_alike():
    assert len(np.unique(near_duplicates(products(60)))) > 40


def test_many_are_compared_piece_by_piece(monkeypatch):
    images = photos(20)
    images[19] = images[0]
    whole = near_duplicates(images)
    monkeypatch.setattr("vtl.data.duplicates._CORRELATIONS_AT_ONCE", 60)
    np.testing.assert_array_equal(near_duplicates(images), whole)


@pytest.mark.parametrize("seed", range(5))
def test_a_fifth_is_held_out_and_no_copy_is_on_both_sides(seed):
    images = photos(100)
    images[50:70] = images[30:50]
    is_held_out = hold_out(images, 0.2, seed)
    np.testing.assert_array_equal(is_held_out[50:70], is_held_out[30:50])
    assert 8 <= is_held_out.sum() <= 35
    np.testing.assert_array_equal(hold_out(images, 0.2, seed), is_held_out)


@pytest.mark.parametrize("seed", range(5))
def test_a_group_of_the_table_is_on_one_side(seed):
    images, products = photos(90), np.arange(90) // 3
    images[89] = images[0]  # a copy joins two groups
    is_held_out = hold_out(images, 0.2, seed, [f"product {number}" for number in products])
    by_product = is_held_out.reshape(30, 3)
    np.testing.assert_array_equal(by_product.all(axis=1), by_product.any(axis=1))
    assert by_product[0, 0] == by_product[29, 0]
    assert 6 <= is_held_out.sum() <= 33


def test_photos_of_one_group_are_not_parted():
    assert not hold_out(photos(6), 0.2, 0, ["patient"] * 6).any()
    assert hold_out(photos(6), 0.2, 0, [""] * 6).any()


def test_another_photo_moves_no_other():
    images = photos(101)
    before = hold_out(images[:100], 0.2, 0)
    np.testing.assert_array_equal(hold_out(images, 0.2, 0)[:100], before)


def test_another_seed_holds_out_others():
    images = photos(50)
    by_seed = [hold_out(images, 0.2, seed) for seed in (0, 1)]
    assert (by_seed[0] != by_seed[1]).any()


@pytest.mark.parametrize("seed", range(5))
def test_a_large_burst_stays_in(seed):
    images = photos(20)
    images[:15] = images[0]
    is_held_out = hold_out(images, 0.3, seed)
    assert not is_held_out[:15].any()
    assert is_held_out.any()


@pytest.mark.parametrize(("count", "share"), [(2, 0.6), (3, 0.2), (9, 0.9)])
def test_few_photos_are_on_both_sides(count, share):
    images = photos(count)
    is_held_out = hold_out(images, share, 0)
    assert is_held_out.any()
    assert not is_held_out.all()


@pytest.mark.parametrize("count", [1, 6])
def test_of_photos_that_are_all_alike_none_is_held_out(count):
    images = np.repeat(photos(1), count, axis=0)
    assert not hold_out(images, 0.2, 0).any()


def test_rows_are_a_view():
    images = photos(6)
    rows = Rows(images, np.array([4, 1]))
    assert (len(rows), rows.shape) == (2, (2, 48, 48, 3))
    np.testing.assert_array_equal(rows[np.array([1, 0, 0])], images[[1, 4, 4]])
