import os
from pathlib import Path

import pytest

from tests.devkit import write_devkit
from vtl.data import image_sets, voc
from vtl.errors import UserError

CLASSES = ("cat", "dog", "horse")


@pytest.fixture
def main(tmp_path: Path) -> Path:
    """ImageSets/Main with train, 000001 to 000006, and test, 000007 to 000012."""
    return write_devkit(tmp_path, {"train": 6, "test": 6}, CLASSES) / "ImageSets" / "Main"


def error_of(main: Path, split: str = "train") -> str:
    with pytest.raises(UserError) as caught:
        voc.read_split(main.parents[1], split)
    message = str(caught.value)
    lines = message.splitlines()
    assert len(lines) <= 3
    assert all(line.isprintable() for line in lines)
    return message


def read_classes(main: Path) -> tuple[str, ...]:
    return voc.read_split(main.parents[1], "train").classes


def positives(path: Path) -> list[str]:
    return [row.split()[0] for row in path.read_text().splitlines() if row.endswith(" 1")]


VANISHING = {
    "a suffix in capitals": lambda path: path.rename(path.with_suffix(".TXT")),
    "two suffixes": lambda path: path.rename(path.with_name(f"{path.name}.txt")),
    "another suffix": lambda path: path.rename(path.with_suffix(".csv")),
    "a hyphen": lambda path: path.rename(path.with_name(path.name.replace("_", "-"))),
    "another split": lambda path: path.rename(path.with_name(path.name.replace("_", "_x"))),
    "commas": lambda path: path.write_text(",".join(path.read_text().split(" "))),
    "commas alone": lambda path: path.write_text("000001,1\n000002,-1\n"),
    "positives only": lambda path: path.write_text("\n".join(positives(path))),
    "positives without a last newline": lambda path: path.write_text("\n".join(positives(path))),
    "empty": lambda path: path.write_text(""),
    "blank": lambda path: path.write_text(" \n\n"),
    "flags first": lambda path: path.write_text("1 000001\n-1 000002\n"),
    "another flag": lambda path: path.write_text("000001 yes\n000002 no\n"),
    "binary": lambda path: path.write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF"),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("change", VANISHING)
def test_a_class_does_not_vanish(main: Path, change: str) -> None:
    for path in sorted(main.glob("dog_*.txt")):
        VANISHING[change](path)
    assert f"{main}/dog" in error_of(main)


STRAYS = {
    **dict.fromkeys(("classes.txt", "labelmap.txt"), b"cat\ndog\n"),
    **dict.fromkeys(("README.txt", "readme", "LICENSE"), b"Made with a tool.\nSee there.\n"),
    **dict.fromkeys(("._dog_train.txt", "._train.txt", ".DS_Store"), b"\0\5\x16\7Mac OS X"),
    **dict.fromkeys(("Thumbs.db", "desktop.ini", "dog_train.txt~", "train.txt.bak"), b"\xff\0"),
    "dog_old.txt": b"000001 -1\n",  # of a split that is gone, and a class that is not
}


def test_strays_are_passed_over(main: Path) -> None:
    for name, content in STRAYS.items():
        (main / name).write_bytes(content)
    (main / "Thumbs").mkdir()
    sets = image_sets.survey(main, None)
    assert sets.splits == ("test", "train")
    assert sets.classes == CLASSES
    assert read_classes(main) == CLASSES


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", "# made by hand\n000001\n"),
        ("bird_old.txt", "000001 -1\n"),
        ("train.lst", "000001\n"),
        ("cow_train.txt", ""),
        ("e\x1b[31m.txt", "000001\n"),
    ],
)
def test_other_strays_are_named(main: Path, name: str, content: str) -> None:
    (main / name).write_text(content)
    assert name.partition("\x1b")[0] in error_of(main)


def test_a_part_of_a_split_is_a_split(tmp_path: Path) -> None:
    """Its labels come from the annotations, which say that the name is no class."""
    root = write_devkit(tmp_path, {"train": 6}, CLASSES, with_annotations=True)
    path = root / "ImageSets" / "Main" / "small_train.txt"
    path.write_text("000001\n000002\n")
    assert voc.read_split(root, "small_train").ids == ("000001", "000002")
    path.rename(path.with_name("dog_train.txt"))
    assert "dog_train.txt lists 2 photos of train.txt without flags" in error_of(path.parent)


def as_text(ids: list[str], encoding: str = "utf-8", end: str = "\n") -> bytes:
    return "".join(f"{photo_id}{end}" for photo_id in ids).encode(encoding)


IDS = [f"{number:06d}" for number in range(1, 7)]


@pytest.mark.parametrize(
    "content",
    [
        as_text(IDS, end="\r\n"),
        as_text(IDS, end="\r"),
        as_text(IDS, "utf-8-sig"),
        as_text(IDS, "utf-16", "\r\n"),
        as_text(IDS, end="  \t\n") + b"\n\n",
        as_text(IDS)[:-1],
        as_text([f"{photo_id}.jpg" for photo_id in IDS]),
        as_text([f"{photo_id}.JPEG" for photo_id in IDS]),
    ],
)
def test_the_same_ids_as_text(main: Path, content: bytes) -> None:
    before = voc.read_split(main.parents[1], "train")
    (main / "train.txt").write_bytes(content)
    after = voc.read_split(main.parents[1], "train")
    assert after.ids_sha256 == before.ids_sha256
    assert (after.labels == before.labels).all()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("# made by hand\n000001\n", "it has the line '# made by hand'"),
        ("JPEGImages/000001\n", "id 'JPEGImages/000001' is not a plain file name"),
        ("..\\000001\n", "is not a plain file name"),
        ("my photo\n", "it has the line 'my photo'"),
        ("000001\nmy photo\n", "each line must hold one id, got 'my photo'"),
        ("00\x1b[31m1\n", "has characters that can't be printed"),
        ("000001\n000001.jpg\n", "id 000001 occurs twice"),
        ("1\n2\n", "2 of 2 photos are missing"),
        ("0" * 10_000, "photos are missing"),
    ],
)
def test_split_files_that_are_refused(main: Path, content: str, problem: str) -> None:
    (main / "train.txt").write_text(content)
    message = error_of(main)
    assert str(main / "train.txt") in message
    assert problem in message
    assert len(message) < 1000


def test_links_lead_only_within_the_devkit(main: Path, tmp_path: Path) -> None:
    path, root = main / "train.txt", main.parents[1]
    for target in (tmp_path / "secret.txt", root / "lists.txt"):
        path.rename(target)
        path.symlink_to(target)
        if target.is_relative_to(root):
            assert voc.read_split(root, "train").classes == CLASSES
        else:
            assert f"{path} is a link that leads out of" in error_of(main)
            path.unlink()
            target.rename(path)


def test_folders_may_be_links(main: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    main.rename(elsewhere)
    main.symlink_to(elsewhere)
    assert read_classes(main) == CLASSES


def test_ids_may_have_blanks_if_photos_have(tmp_path):
    devkit = write_devkit(tmp_path, {"train": 3}, classes=("cat", "dog"))
    photos, main = devkit / "JPEGImages", devkit / "ImageSets" / "Main"
    names = {"000001": "my photo", "000002": "two  blanks 1", "000003": "c"}
    for old, new in names.items():
        (photos / f"{old}.jpg").rename(photos / f"{new}.jpg")
    before = {path: path.read_text() for path in main.iterdir()}
    for path, text in before.items():
        for old, new in names.items():
            text = text.replace(old, new)
        path.write_text(text)
    split = voc.read_split(devkit, "train")
    assert split.ids == tuple(names.values())
    assert split.classes == ("cat", "dog")
    expected = [
        [int(row.split()[1]) == 1 for row in before[main / f"{c}_train.txt"].splitlines()]
        for c in split.classes
    ]
    assert split.labels.T.astype(bool).tolist() == expected
