import unicodedata
from pathlib import Path

import pytest

from vtl.data import photo_files
from vtl.errors import UserError


def write_photos(directory: Path, *names: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name in names:
        (directory / name).write_text(name)
    return directory


def find(directory: Path, *listed: str) -> list[tuple[str, str]]:
    ids, paths = photo_files.find_photos(directory, listed, Path("train.txt"))
    assert {path.parent for path in paths} == {directory}
    return [(photo_id, path.name) for photo_id, path in zip(ids, paths, strict=True)]


def test_photos_go_by_their_names_without_endings(tmp_path: Path) -> None:
    names = ("1.jpg", "2.JPG", "3.jpeg", "4.PnG", "5.webp", "6.bmp", "photo..7.tif", "8.jpg.jpg")
    directory = write_photos(tmp_path / "photos", *names, "Thumbs.db", "1.xml", "._1.jpg")
    found = find(directory, "1", "2", "3", "4.png", "5.jpg", "6", "photo..7", "8.jpg")
    assert found == [
        *(("1", "1.jpg"), ("2", "2.JPG"), ("3", "3.jpeg"), ("4", "4.PnG"), ("5", "5.webp")),
        *(("6", "6.bmp"), ("photo..7", "photo..7.tif"), ("8.jpg", "8.jpg.jpg")),
    ]


def test_accents_are_stored_in_two_ways(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Käse") for form in ("NFC", "NFD"))
    directory = write_photos(tmp_path / "photos", f"{decomposed}.jpg")
    assert find(directory, composed) == [(composed, f"{decomposed}.jpg")]


def test_two_photos_of_one_id(tmp_path: Path, caplog) -> None:
    caplog.set_level("WARNING")
    directory = write_photos(tmp_path / "photos", "1.jpg", "1.png", "2.JPG", "2.png")
    assert find(directory, "1") == [("1", "1.jpg")]
    assert "1.jpg and 1.png: 1.jpg is used" in caplog.text
    with pytest.raises(UserError, match=r"train.txt: one id has several photos, 2.JPG and 2.png"):
        find(directory, "2")


@pytest.mark.parametrize(
    ("listed", "hint"),
    [
        ("photo2", "; Photo2.jpg is there"),
        ("1", "; 000001.jpg is there"),
        ("raw", "; raw.cr2 is there"),
        ("nothing", ""),
    ],
)
def test_what_does_lie_there_is_said(tmp_path: Path, listed: str, hint: str) -> None:
    directory = write_photos(tmp_path / "photos", "Photo2.jpg", "000001.jpg", "raw.cr2")
    with pytest.raises(UserError) as caught:
        find(directory, listed, "000001")
    first = f"train.txt: 1 of 2 photos are missing; the first is {directory / listed}.jpg"
    assert str(caught.value) == first + hint


def test_an_empty_folder_and_one_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="that folder is empty"):
        find(write_photos(tmp_path / "photos"), "1")
    with pytest.raises(UserError, match="missing can't be read: No such file or directory"):
        find(tmp_path / "missing", "1")


def test_files_with_the_same_content(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / f"{name}.jpg" for name in ("one", "copy", "other"))
    one.write_bytes(b"a" * 20_000)
    copy.write_bytes(one.read_bytes())
    other.write_bytes(b"a" * 19_999 + b"b")
    (tmp_path / "link.jpg").symlink_to(one)
    assert photo_files.is_same_file(one, copy)
    assert photo_files.is_same_file(one, tmp_path / "link.jpg")
    assert not photo_files.is_same_file(one, other)
    assert not photo_files.is_same_file(one, tmp_path / "nowhere.jpg")
