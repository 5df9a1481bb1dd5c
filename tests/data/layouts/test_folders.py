"""A folder a class."""

import unicodedata

import numpy as np
import pytest

from tests.data.layouts.photos import HOSTILE, write_photos
from vtl.data.layouts import folders
from vtl.errors import UserError


def error_of(root):
    with pytest.raises(UserError) as caught:
        folders.read(root)
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def test_a_folder_a_class(tmp_path):
    names = write_photos(tmp_path, ["cat/1.jpg", "cat/deep/2.JPG", "dog/1.png", "Wau Wau/ü.webp"])
    (tmp_path / "cat" / "._1.jpg").write_bytes(b"macOS")
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"macOS")
    (tmp_path / ".cache").mkdir()
    found = folders.read(tmp_path)
    assert found.classes == ("Wau Wau", "cat", "dog")
    assert sorted(found.names) == sorted(names)
    of_photo = dict(zip(found.names, found.labels.numbers.tolist(), strict=True))
    assert of_photo == dict(zip(names, [1, 1, 2, 0], strict=True))
    assert found.splits is None
    assert found.notes == ["2 files are no photos by their names: cat/.DS_Store"]


def test_splits_as_image_folder_has_them(tmp_path):
    write_photos(
        tmp_path,
        ["train/a/1.jpg", "train/b/2.jpg", "Valid/a/3.jpg", "testing/b/4.jpg", "testing/b/5.jpg"],
    )
    found = folders.read(tmp_path)
    assert found.classes == ("a", "b")
    assert dict(zip(found.names, found.splits, strict=True)) == {
        "train/a/1.jpg": "train",
        "train/b/2.jpg": "train",
        "Valid/a/3.jpg": "val",
        "testing/b/4.jpg": "test",
        "testing/b/5.jpg": "test",
    }
    write_photos(tmp_path, ["val/a/6.jpg"])
    assert "folders Valid and val both name the split val" in error_of(tmp_path)


def test_folders_called_train_may_be_a_class(tmp_path):
    write_photos(tmp_path, ["train/1.jpg", "boat/2.jpg"])
    assert folders.read(tmp_path).classes == ("boat", "train")


def test_hostile_names(tmp_path):
    write_photos(tmp_path, [f"{kind}/{name}" for kind in ("ja", "no no") for name in HOSTILE])
    found = folders.read(tmp_path)
    assert len(found.names) == 2 * len(HOSTILE)
    np.testing.assert_array_equal(np.asarray(found.labels).sum(0), [len(HOSTILE)] * 2)


def test_a_class_whose_accents_are_stored_two_ways_is_one(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "Bär") for form in ("NFC", "NFD"))
    write_photos(tmp_path, [f"train/{nfc}/1.jpg", f"test/{nfd}/2.jpg", "train/x/3.jpg"])
    assert folders.read(tmp_path).classes == (nfc, "x")


def test_links_to_folders_are_followed_once(tmp_path):
    write_photos(tmp_path / "elsewhere", ["1.jpg"])
    write_photos(tmp_path / "data", ["b/2.jpg"])
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "elsewhere")
    assert folders.read(tmp_path / "data").names == ["a/1.jpg", "b/2.jpg"]


def test_a_line_on_what_is_wrong(tmp_path):
    write_photos(tmp_path, ["cat/1.jpg"])
    assert "holds photos of 1 classes, cat" in error_of(tmp_path)
    write_photos(tmp_path, ["dog/1.jpg", "loose.jpg"])
    assert "1 photos lie beside the folders of the classes, such as loose.jpg" in error_of(tmp_path)
    (tmp_path / "loose.jpg").unlink()
    write_photos(tmp_path, ["a\x1bb/1.jpg"])
    assert "that can be printed" in error_of(tmp_path)


def test_what_stands_beside_splits(tmp_path):
    names = ["train/a/1.jpg", "train/b/2.jpg", "test/a/3.jpg"]
    write_photos(tmp_path, names)
    (tmp_path / "__MACOSX" / "train").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "train" / "._1.jpg").write_bytes(b"macOS")
    (tmp_path / "logs").mkdir()
    assert folders.read(tmp_path).splits == ["test", "train", "train"]
    write_photos(tmp_path, ["masks/a/1.png"])
    assert "folder masks stands beside the splits test, train" in error_of(tmp_path)
