"""COCO's instances."""

import json

import numpy as np
import pytest

from tests.data.layouts.photos import write_photos
from vtl.data.layouts import coco
from vtl.errors import UserError

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def content(*names, objects=(), categories=CATEGORIES, **images):
    return {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(names, start=100)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "iscrowd": crowd, "bbox": []}
            for n, (image, category, crowd) in enumerate(objects)
        ],
        "categories": categories,
        **images,
    }


def write(root, name, value):
    path = root / "annotations" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def error_of(*arguments):
    with pytest.raises(UserError) as caught:
        coco.read(*arguments)
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def test_objects_become_labels_and_crowds_difficult(tmp_path):
    write_photos(tmp_path / "images", ["1.jpg", "2.jpg", "3.jpg"])
    objects = [(100, 3, 0), (100, 3, 0), (100, 7, 1), (101, 7, 1), (101, 7, 0)]
    path = write(tmp_path, "mine.json", content("1.jpg", "2.jpg", "3.jpg", objects=objects))
    found = coco.read([path], tmp_path)
    assert found.classes == ("cat", "dog")  # by their ids
    assert found.names == ["images/1.jpg", "images/2.jpg", "images/3.jpg"]
    np.testing.assert_array_equal(found.labels, [[1, 0], [0, 1], [0, 0]])
    np.testing.assert_array_equal(found.difficult, [[0, 1], [0, 0], [0, 0]])
    assert found.splits is None


def test_a_file_a_split(tmp_path):
    write_photos(tmp_path, ["train2017/1.jpg", "train2017/2.jpg", "val2017/1.jpg"])
    write(tmp_path, "instances_train2017.json", content("1.jpg", "2.jpg", objects=[(100, 3, 0)]))
    write(tmp_path, "instances_val2017.json", content("1.jpg", objects=[(100, 7, 0)]))
    write(tmp_path, "captions_val2017.json", {})
    found = coco.read(coco.files(tmp_path), tmp_path)
    assert found.splits == ["train", "train", "val"]
    assert found.names == ["train2017/1.jpg", "train2017/2.jpg", "val2017/1.jpg"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], "is a list"),
        ({"images": []}, "it lacks categories"),
        (content("1.jpg", categories=[]), "'categories' is a list of 0"),
        (content("9.jpg"), "1 of 1 photos are not below"),
        (content("1.jpg", "1.jpg"), "photos twice"),
        (content("../mine.json"), "1 of 1 photos are not below"),
        (content("1.jpg", objects=[(5, 3, 0)]), "annotations[0] is of image 5 and category 3"),
        (content("1.jpg", objects=[(100, 4, 0)]), "annotations[0] is of image 100 and category 4"),
        (content("1.jpg", categories=[*CATEGORIES, CATEGORIES[0]]), "have one id or one name"),
        (content("1.jpg", images=[{"id": 1}]), "it lacks images[0].file_name"),
    ],
)
def test_a_line_on_what_is_wrong(tmp_path, value, expected):
    write_photos(tmp_path, ["1.jpg"])
    path = write(tmp_path, "mine.json", value)
    assert expected in error_of([path], tmp_path)


def test_splits_must_have_the_same_categories(tmp_path):
    write_photos(tmp_path, ["1.jpg", "2.jpg"])
    first = write(tmp_path, "instances_train.json", content("1.jpg"))
    second = write(tmp_path, "instances_val.json", content("2.jpg", categories=CATEGORIES[:1]))
    assert "its categories are others" in error_of([first, second], tmp_path)


def test_more_annotations_than_other_lists_may_have(tmp_path):
    write_photos(tmp_path, ["1.jpg"])
    objects = [(100, 3, 0)] * 100_001
    path = write(tmp_path, "mine.json", content("1.jpg", objects=objects))
    np.testing.assert_array_equal(coco.read([path], tmp_path).labels, [[1, 0]])
