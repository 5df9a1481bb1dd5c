import errno
import hashlib
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.devkit import write_annotation, write_devkit
from vtl.data import splits, voc
from vtl.data.fetch import Download
from vtl.errors import UserError
from vtl.files import file_sha256

SHAPES = ("circle", "square", "star")


def error_of(function, *args) -> str:
    with pytest.raises(UserError) as caught:
        function(*args)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    return message


def write_main(devkit: Path, name: str, text: str) -> None:
    (devkit / "ImageSets" / "Main" / f"{name}.txt").write_text(text)


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """Ids 000001 to 000003 in train, 000004 and 000005 in val."""
    return write_devkit(tmp_path, {"train": 3, "val": 2}, SHAPES)


def test_flags_become_labels_and_difficult(devkit: Path) -> None:
    write_main(devkit, "circle_train", "000001  1\n000002 -1\n000003  0\n")
    write_main(devkit, "square_train", "000003 -1\n\n000001  0\n000002  1\n")
    write_main(devkit, "star_train", "000001 -1\n000002 -1\n000003 -1\n")
    split = voc.read_split(devkit, "train")
    assert (split.name, len(split), split.classes) == ("train", 3, SHAPES)
    assert split.ids == ("000001", "000002", "000003")
    assert split.paths[2] == devkit / "JPEGImages" / "000003.jpg"
    np.testing.assert_array_equal(split.labels, [[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(split.difficult, [[0, 1, 0], [0, 0, 0], [1, 0, 0]])
    assert split.labels.dtype == split.difficult.dtype == np.uint8
    assert split.ids_sha256 == hashlib.sha256(b"000001\n000002\n000003").hexdigest()


def test_order_is_that_of_the_split_file_and_blank_lines_are_ignored(devkit: Path) -> None:
    before = voc.read_split(devkit, "train")
    write_main(devkit, "train", "\n000003\r\n000001\n\n000002 \n")
    after = voc.read_split(devkit, "train")
    assert after.ids == ("000003", "000001", "000002")
    np.testing.assert_array_equal(after.labels, before.labels[[2, 0, 1]])
    assert after.ids_sha256 != before.ids_sha256


def test_a_voc_devkit_has_the_classes_in_voc_order(tmp_path: Path) -> None:
    devkit = write_devkit(tmp_path, {"test": 20}, tuple(reversed(voc.CLASSES)))
    split = voc.read_split(devkit, "test")
    assert split.classes == voc.CLASSES
    assert len(voc.CLASSES) == 20
    # Photo i has class i of the reversed ones.
    assert split.labels[np.arange(20), 19 - np.arange(20)].tolist() == [1] * 20


def test_a_split_and_a_class_may_share_the_name_train(tmp_path: Path) -> None:
    devkit = write_devkit(tmp_path, {"train": 2, "val": 2}, ("car", "train"))
    assert voc.read_split(devkit, "train").classes == ("car", "train")
    assert "the splits are train, val" in error_of(voc.read_split, devkit, "train_val")


def test_underscores_in_names_of_splits_and_classes(tmp_path: Path) -> None:
    classes = ("red_light", "sign")
    devkit = write_devkit(tmp_path, {"val": 2, "my_val": 3}, classes)
    assert voc.read_split(devkit, "my_val").classes == classes
    assert voc.read_split(devkit, "val").classes == classes


def test_hidden_files_are_ignored(devkit: Path) -> None:
    (devkit / "ImageSets" / "Main" / "._star_train.txt").write_bytes(b"\x00\xff")
    assert voc.read_split(devkit, "train").classes == SHAPES


def test_annotations_say_the_same_as_class_files(tmp_path: Path) -> None:
    devkit = write_devkit(tmp_path, {"train": 30}, voc.CLASSES, with_annotations=True)
    expected = voc.read_split(devkit, "train")
    for name in voc.CLASSES:
        (devkit / "ImageSets" / "Main" / f"{name}_train.txt").unlink()
    split = voc.read_split(devkit, "train")
    assert expected.difficult.sum() > 0
    np.testing.assert_array_equal(split.labels, expected.labels)
    np.testing.assert_array_equal(split.difficult, expected.difficult)


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    """One photo, 000001, without class files."""
    return write_devkit(tmp_path, {"test": 1}, with_class_files=False, with_annotations=True)


def test_one_plain_object_makes_a_class_present(annotated: Path) -> None:
    (annotated / "Annotations" / "000001.xml").write_text(
        "<annotation>"
        "<object><name>cat</name><difficult>1</difficult></object>"
        "<object><name>cat</name><difficult>0</difficult></object>"
        "<object><name>dog</name><difficult>1</difficult></object>"
        "<object><name>dog</name><difficult>1</difficult></object>"
        "<object><name>person</name><part><name>head</name></part></object>"
        "</annotation>"
    )
    split = voc.read_split(annotated, "test")
    assert [voc.CLASSES[i] for i in np.flatnonzero(split.labels[0])] == ["cat", "person"]
    assert [voc.CLASSES[i] for i in np.flatnonzero(split.difficult[0])] == ["dog"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<annotation><object>", "no element found"),
        ("<annotation><object></object></annotation>", "has no name"),
        (
            "<annotation><object><name>cat</name><difficult>2</difficult></object></annotation>",
            "difficult flag of 'cat' must be 0 or 1, got '2'",
        ),
    ],
)
def test_a_broken_annotation_is_named(annotated: Path, text: str, problem: str) -> None:
    path = annotated / "Annotations" / "000001.xml"
    path.write_text(text)
    message = error_of(voc.read_split, annotated, "test")
    assert str(path) in message
    assert problem in message


def test_a_missing_annotation_is_named(annotated: Path) -> None:
    path = annotated / "Annotations" / "000001.xml"
    path.unlink()
    assert str(path) in error_of(voc.read_split, annotated, "test")


def test_a_class_without_a_class_file_is_named(tmp_path: Path) -> None:
    devkit = write_devkit(tmp_path, {"train": 2, "test": 1}, ("cat",), with_annotations=True)
    (devkit / "ImageSets" / "Main" / "cat_test.txt").unlink()
    path = devkit / "Annotations" / "000003.xml"
    write_annotation(path, {"zebra": 1})
    message = error_of(voc.read_split, devkit, "test")
    assert f"{path}: 'zebra' is none of the 1 classes with class files" in message
    assert "CLASS_test.txt" in message


def test_own_classes_of_annotations_are_those_of_all_splits(tmp_path: Path, caplog) -> None:
    kinds = {"train": 2, "test": 2}
    options = {"with_class_files": False, "with_annotations": True}
    devkit = write_devkit(tmp_path, kinds, **options)
    objects = {1: {"rust": 1}, 2: {"dent": 1, "rust": 0}, 3: {"rust": 1, "bird": 1}, 4: {}}
    for number, names in objects.items():
        write_annotation(devkit / "Annotations" / f"{number:06d}.xml", names)
    for split in ("train", "test"):
        assert voc.read_split(devkit, split).classes == ("bird", "dent", "rust")
    caplog.set_level("WARNING")
    by_role = splits.read_splits(devkit, {"train": "train", "test": "test"})
    np.testing.assert_array_equal(by_role["train"].labels, [[0, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(by_role["test"].labels, [[1, 0, 1], [0, 0, 0]])
    assert "its classes are those of its annotations: bird (in 1), dent (in 1), rust" in caplog.text
    assert "in one split alone: bird in test (1); dent in train (1)" in caplog.text


def test_annotations_without_an_object_are_of_another_kind(annotated: Path) -> None:
    path = annotated / "Annotations" / "000001.xml"
    path.write_text("<annotation><item><name>cat</name></item></annotation>")
    message = error_of(voc.read_split, annotated, "test")
    assert "none of the 1 annotations of split 'test'" in message
    path.write_text("<annotations><image name='000001.jpg'/></annotations>")
    message = error_of(voc.read_split, annotated, "test")
    assert f"{path} can't be read: it is no annotation of VOC's" in message
    assert "<annotations>" in message


def test_zero_for_absent_is_refused(devkit: Path) -> None:
    for path in (devkit / "ImageSets" / "Main").glob("*_train.txt"):
        path.write_text(path.read_text().replace("-1", " 0"))
    message = error_of(voc.read_split, devkit, "train")
    assert "no class file of split 'train' has a -1, but 4 flags are 0" in message
    assert "Write -1 for absent" in message
    assert len(voc.read_split(devkit, "val")) == 2


def test_what_is_implausible_gets_a_line(devkit: Path, caplog) -> None:
    caplog.set_level("WARNING")
    write_main(devkit, "circle_train", "000001 1\n000002 1\n000003 1\n")
    write_main(devkit, "square_train", "000001 1\n000002 0\n000003 0\n")
    write_main(devkit, "star copy_train", "000001 1\n000002 -1\n000003 -1\n")
    voc.read_split(devkit, "train")
    assert "class circle is in every photo of split train" in caplog.text
    assert "square_train.txt has flags 0 but no -1" in caplog.text
    assert "only split train has a file of class star copy, star copy_train.txt" in caplog.text


def test_an_ordinary_devkit_gets_no_line(tmp_path: Path, caplog) -> None:
    caplog.set_level("WARNING")
    devkit = write_devkit(tmp_path, {"train": 40, "test": 40}, SHAPES)
    splits.read_splits(devkit, {"train": "train", "val": "", "test": "test"})
    assert caplog.text == ""


def test_photos_may_have_other_endings(devkit: Path) -> None:
    before = voc.read_split(devkit, "train")
    photos = devkit / "JPEGImages"
    (photos / "000001.jpg").rename(photos / "000001.JPG")
    (photos / "000003.jpg").rename(photos / "000003.png")
    for name in ("train", "star_train"):
        path = devkit / "ImageSets" / "Main" / f"{name}.txt"
        path.write_text(path.read_text().replace("000001", "000001.JPG"))
    after = voc.read_split(devkit, "train")
    assert after.ids == before.ids
    assert [path.name for path in after.paths] == ["000001.JPG", "000002.jpg", "000003.png"]
    np.testing.assert_array_equal(after.labels, before.labels)


def test_neither_class_files_nor_annotations(tmp_path: Path) -> None:
    devkit = write_devkit(tmp_path, {"test": 1}, with_class_files=False)
    message = error_of(voc.read_split, devkit, "test")
    assert "split 'test' has no labels" in message
    assert str(devkit / "Annotations") in message


def test_class_files_for_some_classes_only(devkit: Path) -> None:
    (devkit / "ImageSets" / "Main" / "square_train.txt").unlink()
    message = error_of(voc.read_split, devkit, "train")
    assert "'train' lacks the class files of 1 of 3 classes; the first is square_train" in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("000001 1\n000009 1\n000003 1\n", "id 000009 is not in the split file"),
        ("000001 1\n000002 1\n", "id 000003 of the split file is missing"),
        ("000001 1\n000002 1\n000003 1\n000002 1\n", "id 000002 occurs twice"),
        ("000001 1\n000002 2\n000003 1\n", "flag of id 000002 must be 1, -1 or 0"),
        ("000001 1\n000002\n000003 1\n", "flag of id 000002 must be 1, -1 or 0"),
        ("000001 1\n000002 1 1\n000003 1\n", "flag of id 000002 must be 1, -1 or 0"),
    ],
)
def test_a_class_file_that_disagrees_with_the_split(devkit: Path, text: str, problem: str) -> None:
    write_main(devkit, "square_train", text)
    message = error_of(voc.read_split, devkit, "train")
    assert str(devkit / "ImageSets" / "Main" / "square_train.txt") in message
    assert problem in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\n", "is empty"),
        ("000001\n000002\n000001\n", "id 000001 occurs twice"),
        ("000001\n000002 1\n", "must hold one id, got '000002 1'"),
        ("000001\n../000002\n", "id '../000002' is not a plain file name"),
        ("a/b\n", "id 'a/b' is not a plain file name"),
        ("..\n", "id '..' is not a plain file name"),
    ],
)
def test_a_broken_split_file(devkit: Path, text: str, problem: str) -> None:
    write_main(devkit, "train", text)
    message = error_of(voc.read_split, devkit, "train")
    assert str(devkit / "ImageSets" / "Main" / "train.txt") in message
    assert problem in message


def test_a_split_file_that_is_not_text(devkit: Path) -> None:
    path = devkit / "ImageSets" / "Main" / "val.txt"
    path.write_bytes("00000é".encode("latin-1"))
    assert error_of(voc.read_split, devkit, "val") == f"{path} is not UTF-8 text: save it as UTF-8"


@pytest.mark.parametrize("split", ["test", "../train", ""])
def test_an_unknown_split_lists_those_that_exist(devkit: Path, split: str) -> None:
    message = error_of(voc.read_split, devkit, split)
    assert f"no split {split!r}" in message
    assert message.endswith("the splits are train, val")


def test_a_class_file_is_not_a_split(devkit: Path) -> None:
    message = error_of(voc.read_split, devkit, "star_train")
    assert "star_train.txt is a class file" in message
    assert message.endswith("the splits are train, val")


def test_missing_photos_are_counted(devkit: Path) -> None:
    photos = devkit / "JPEGImages"
    (photos / "000002.jpg").unlink()
    (photos / "000003.jpg").unlink()
    message = error_of(voc.read_split, devkit, "train")
    assert f"2 of 3 photos are missing; the first is {photos / '000002.jpg'}" in message


def test_a_given_root_is_checked(devkit: Path, tmp_path: Path) -> None:
    assert splits.find_root("voc2007", str(devkit)) == devkit
    missing = str(tmp_path / "nowhere")
    assert f"{missing} is not a directory" in error_of(splits.find_root, "voc2007", missing)
    assert f"{missing} is not a directory" in error_of(voc.read_split, missing, "train")
    not_one = str(devkit / "ImageSets")
    assert "is not a VOC devkit: it lacks" in error_of(splits.find_root, "voc2007", not_one)


def test_the_parent_of_one_devkit_is_accepted(devkit: Path, caplog) -> None:
    caplog.set_level("INFO")
    assert splits.find_root("voc2007", str(devkit.parent)) == devkit
    assert str(devkit) in caplog.text
    for name in ("ImageSets/Main", "JPEGImages"):
        (devkit.parent / "VOC2012" / name).mkdir(parents=True)
    message = error_of(splits.find_root, "voc2007", str(devkit.parent))
    assert "several devkits (VOC2007, VOC2012)" in message


def test_devkits_are_looked_for_below_and_above(devkit: Path, tmp_path: Path) -> None:
    assert splits.find_root("voc2007", str(tmp_path)) == devkit
    above = error_of(splits.find_root, "voc2007", str(devkit / "JPEGImages"))
    assert above.endswith(f"It lies in one: {devkit}.")


def test_neighbours_that_may_not_be_read_are_passed_over(devkit: Path, monkeypatch) -> None:
    closed = devkit.parent / "lost+found"
    closed.mkdir()
    deny_reading(closed, monkeypatch)
    assert splits.find_root("voc2007", str(devkit.parent)) == devkit
    message = error_of(splits.find_root, "voc2007", str(closed / "VOC2007"))
    assert message == f"data root {closed / 'VOC2007'} can't be read: Permission denied"
    deny_reading(devkit / "ImageSets" / "Main", monkeypatch)
    message = error_of(voc.read_split, devkit, "train")
    assert message == f"{devkit / 'ImageSets' / 'Main'} can't be read: Permission denied"


def deny_reading(directory: Path, monkeypatch) -> None:
    """As for anybody but root: nothing in `directory` can be listed or looked at."""
    originals = {name: getattr(os, name) for name in ("stat", "scandir", "listdir")}

    def denying(name):
        def call(path=".", *args, **kwargs):
            is_inside = directory in Path(path).parents
            if is_inside or (Path(path) == directory and name != "stat"):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return originals[name](path, *args, **kwargs)

        return call

    for name in originals:
        monkeypatch.setattr(os, name, denying(name))


def test_only_voc2007_can_be_fetched() -> None:
    message = error_of(splits.find_root, "voc2012", None)
    assert "'voc2012' can't be fetched" in message
    assert "--config.data.root=" in message


def write_archives(origin: Path, cache: Path) -> tuple[Download, ...]:
    """Pack a devkit into two archives, as VOC2007 comes, and put them where fetch finds them."""
    devkit = write_devkit(origin, {"trainval": 3, "test": 2}, SHAPES)
    cache.mkdir(parents=True)
    archives = []
    for split in ("trainval", "test"):
        path = cache / f"{split}.tar"
        files = sorted((devkit / "ImageSets" / "Main").glob(f"*{split}.txt"))
        with tarfile.open(path, "w") as tar:
            for file in (*files, *voc.read_split(devkit, split).paths):
                tar.add(file, file.relative_to(origin))
        archives.append(Download(path.name, (), path.stat().st_size, file_sha256(path)))
    return tuple(archives)


def test_voc2007_is_unpacked_once_into_the_cache(tmp_path: Path, monkeypatch) -> None:
    directory = tmp_path / "cache" / "voc2007"
    archives = write_archives(tmp_path / "origin", directory)
    monkeypatch.setattr(voc, "VOC2007", archives)
    monkeypatch.setenv("VTL_CACHE", str(tmp_path / "cache"))
    root = splits.find_root("voc2007", None)
    assert root == directory / "VOCdevkit" / "VOC2007"
    assert len(voc.read_split(root, "trainval")) == 3
    assert len(voc.read_split(root, "test")) == 2
    for archive in archives:
        (directory / archive.filename).unlink()
    assert splits.find_root("voc2007", None) == root


def test_a_failed_fetch_says_what_to_put_where(tmp_path: Path, monkeypatch) -> None:
    unreachable = tuple(Download(archive.filename, ()) for archive in voc.VOC2007)
    monkeypatch.setattr(voc, "VOC2007", unreachable)
    monkeypatch.setenv("VTL_CACHE", str(tmp_path / "cache"))
    message = error_of(splits.find_root, "voc2007", None)
    names = "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar"
    assert f"put {names} into {tmp_path / 'cache' / 'voc2007'}" in message
    assert "--config.data.root=PATH/VOCdevkit/VOC2007" in message


SAMPLE = Path(__file__).parents[3] / "shared/data/voc2012_animals/VOCdevkit/VOC2012"


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs a sample of real VOC2012 photos")
def test_real_voc2012_photos() -> None:
    train, val, trainval = (voc.read_split(SAMPLE, name) for name in ("train", "val", "trainval"))
    assert (len(train), len(val), len(trainval)) == (500, 200, 700)
    assert trainval.classes == voc.CLASSES
    np.testing.assert_array_equal(trainval.labels.sum(0), train.labels.sum(0) + val.labels.sum(0))
    assert trainval.labels.sum(0)[voc.CLASSES.index("cat")] == 213
    assert trainval.difficult.sum() == 0
