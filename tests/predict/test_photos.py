"""What a command names becomes photos, one after the other."""

import itertools
import os

import pytest

from tests.data.layouts.photos import HOSTILE, write_photo, write_photos
from vtl.errors import UserError
from vtl.predict import photos


def names(*named, root=None):
    return [photo.name for photo in photos.stream(list(map(str, named)), root)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Photos in folders, and what is no photo."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "p", ["b.jpg", "a.PNG", "in/c.jpg", "in/deep/d.webp", ".hidden/e.jpg"])
    (tmp_path / "p" / "notes.txt").write_text("no photo")
    (tmp_path / "p" / "._a.PNG").write_text("macOS's")
    return tmp_path / "p"


def test_a_folder_is_walked_in_order(folder):
    assert names("p") == ["p/a.PNG", "p/b.jpg", "p/in/c.jpg", "p/in/deep/d.webp"]
    assert names("p/in", "p/b.jpg") == ["p/in/c.jpg", "p/in/deep/d.webp", "p/b.jpg"]


def test_a_folder_is_not_listed_ahead(folder, monkeypatch):
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    stream = photos.stream(["p"])
    assert [photo.name for photo in itertools.islice(stream, 2)] == ["p/a.PNG", "p/b.jpg"]
    assert len(listed) == 1


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("p/*.jpg", ["p/b.jpg"]),
        ("p/*", ["p/a.PNG", "p/b.jpg"]),
        ("p/**/*.jpg", ["p/b.jpg", "p/in/c.jpg"]),
        ("p/**", ["p/a.PNG", "p/b.jpg", "p/in/c.jpg", "p/in/deep/d.webp"]),
        ("p/i?/**/[cd].*", ["p/in/c.jpg", "p/in/deep/d.webp"]),
        ("p/.hid*/*", ["p/.hidden/e.jpg"]),
        ("*/in/deep/*", ["p/in/deep/d.webp"]),
    ],
)
def test_patterns(folder, pattern, expected):
    assert names(pattern) == expected
    absolute = names(folder.parent / pattern)
    assert absolute == [str(folder.parent / name) for name in expected]


def test_a_link_back_is_not_followed_for_ever(folder):
    (folder / "in" / "back").symlink_to(folder)
    assert names("p/**/b.jpg") == ["p/b.jpg"]
    assert len(names("p")) == 4


def test_a_photo_named_like_a_pattern_is_itself(folder):
    write_photo(folder / "[b].jpg", 0)
    assert names("p/[b].jpg") == ["p/[b].jpg"]


def test_a_table_names_photos_beside_it(folder):
    table = folder / "list.csv"
    table.write_text("id,photo\n1,b.jpg\n2,in/c\n3,gone.jpg\n4,../x.jpg\n5,\n")
    found = list(photos.stream([str(table)]))
    assert [photo.name for photo in found[:2]] == [str(folder / "b.jpg"), str(folder / "in/c.jpg")]
    assert [photo.problem for photo in found[:2]] == ["", ""]
    assert found[2].problem == f"there is no such photo below {folder}"
    assert found[3].problem.endswith(f"leads out of {folder}")
    assert found[4].problem == "the photo's file is blank"


def test_a_table_may_lie_elsewhere_and_have_labels(folder, tmp_path):
    (tmp_path / "there").mkdir()
    table = tmp_path / "there" / "list.tsv"
    table.write_text("what\tcat\nb.jpg\t1\na.PNG\t0\n")
    assert names(table, root=folder) == [str(folder / "b.jpg"), str(folder / "a.PNG")]


def test_hostile_names_are_lines(tmp_path):
    more = ("new\nline.jpg", "=cmd|x.jpg", "esc\x1b[31m.jpg")
    write_photos(tmp_path, [*HOSTILE, *more])
    found = list(photos.stream([str(tmp_path)]))
    assert len(found) == len(HOSTILE) + len(more)
    assert all(photo.name.isprintable() and photo.path.is_file() for photo in found)
    assert str(tmp_path / "new\\nline.jpg") in [photo.name for photo in found]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("gone.jpg", "gone.jpg can't be opened: No such file"),
        ("empty", "empty names no photo: no file in that folder"),
        ("p/*.gif", r"p/\*.gif names no photo: no file fits that pattern"),
        ("nowhere/*.gif", "names no photo"),
        ("p/alone.csv", "alone.csv names no photo: it has a line with names of columns alone"),
        ("p/other.csv", "other.csv: no column names photos"),
    ],
)
def test_what_names_no_photo_is_an_error(folder, named, message):
    (folder.parent / "empty").mkdir()
    (folder / "alone.csv").write_text("photo,cat\n")
    (folder / "other.csv").write_text("x,y\n1,2\n")
    with pytest.raises(UserError, match=message) as caught:
        photos.check(["p", named])
    assert len(str(caught.value).splitlines()) <= 3


def test_only_photos_themselves_are_counted(folder):
    assert photos.known_count(["p/a.PNG", "p/b.jpg"]) == 2
    assert photos.known_count(["p/a.PNG", "p"]) is None
