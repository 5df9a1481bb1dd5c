"""YOLO's label folders."""

import numpy as np
import pytest

from tests.data.layouts.photos import write_photos
from vtl.data.layouts import yolo
from vtl.errors import UserError


def write_labels(root, **by_name):
    for name, text in by_name.items():
        path = root / "labels" / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def error_of(root):
    with pytest.raises(UserError) as caught:
        yolo.read(root)
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("data.yaml", "train: images/train\nnames: [cat, big dog]\n"),
        ("coco8.yaml", "names:\n  0: cat\n  1: big dog\n"),
        ("classes.txt", "cat\nbig dog\n"),
    ],
)
def test_lines_become_labels(tmp_path, file, names):
    write_photos(tmp_path, [f"images/{name}.jpg" for name in ("train/1", "train/2", "val/3")])
    write_labels(tmp_path, train__1="1 .5 .5 .1 .1\n1 0.2 0 0 0\n0 0 0 0 0\n", val__3="\n0 1 1 1 1")
    (tmp_path / file).write_text(names)
    assert yolo.is_layout(tmp_path)
    found = yolo.read(tmp_path)
    assert found.classes == ("cat", "big dog")
    assert found.names == ["images/train/1.jpg", "images/train/2.jpg", "images/val/3.jpg"]
    assert found.splits == ["train", "train", "val"]
    np.testing.assert_array_equal(found.labels, [[1, 1], [0, 0], [1, 0]])


def test_without_splits(tmp_path):
    write_photos(tmp_path / "images", ["1.jpg", "2.jpg"])
    write_labels(tmp_path, **{"1": "0 .1 .1 .1 .1"})
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert yolo.read(tmp_path).splits is None


def test_a_line_on_what_is_wrong(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    assert not yolo.is_layout(tmp_path)
    names = tmp_path / "data.yaml"
    names.write_text("names: [cat, dog]\n")
    assert "images holds no photo" in error_of(tmp_path)
    write_photos(tmp_path / "images", ["1.jpg"])
    assert "has no label of any photo" in error_of(tmp_path)
    write_labels(tmp_path, **{"1": "\n2 .1 .1 .1 .1"})
    assert "1.txt, line 2: '2' is no class from 0 to 1" in error_of(tmp_path)
    for wrong in (
        "names: 3",
        "names: {1: a}",
        "names: {0: a, b: c}",
        "[",
        "a: &x [*x]",
        "!!python/object:os.system x",
    ):
        names.write_text(wrong)
        assert "data.yaml" in error_of(tmp_path)
    names.write_text("names: [cat, cat]")
    assert "two classes have one name" in error_of(tmp_path)
