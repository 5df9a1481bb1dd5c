import io

import numpy as np
from PIL import Image

from vtl.evaluation import gallery
from vtl.evaluation.gallery import Choice


def choices_of(scores, labels, difficult=None, num_each=2):
    scores, labels = (np.array(column)[:, None] for column in (scores, labels))
    difficult = np.zeros_like(labels) if difficult is None else np.array(difficult)[:, None]
    choices = gallery.choose(scores, labels, difficult, num_each)
    return {kind: [c.row for c in choices if c.kind == kind] for kind in gallery.KINDS}


def test_best_with_best_without_and_worst_with():
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    labels = [1, 0, 1, 1, 0, 0, 1, 1]
    assert choices_of(scores, labels) == {"hit": [0, 2], "false alarm": [1, 4], "miss": [7, 6]}


def test_none_is_both_hit_and_miss():
    assert choices_of([0.9, 0.2, 0.1], [1, 1, 1]) == {
        "hit": [0, 1],
        "false alarm": [],
        "miss": [2],
    }
    assert choices_of([0.9, 0.2], [0, 1]) == {"hit": [1], "false alarm": [0], "miss": []}


def test_difficult_photos_are_no_false_alarms():
    rows = choices_of([0.9, 0.8, 0.1], [0, 0, 1], difficult=[1, 0, 0])
    assert rows["false alarm"] == [1]


def test_a_class_without_positives_has_false_alarms_alone():
    assert choices_of([0.1, 0.9, 0.3], [0, 0, 0]) == {"hit": [], "false alarm": [1, 2], "miss": []}


def test_each_photo_is_packed_once_with_the_map_of_its_class():
    choices = [Choice(7, 0, "hit"), Choice(3, 1, "miss"), Choice(7, 1, "false alarm")]
    photos = np.stack([np.full((150, 150, 3), value, np.uint8) for value in (30, 200)])
    maps = np.arange(2 * 2 * 2 * 2, dtype=np.float32).reshape(2, 2, 2, 2)
    packed = gallery.pack(choices, photos, maps, np.zeros(2, np.float32))
    assert packed["rows"].tolist() == [3, 7]
    assert packed["photo"].tolist() == [1, 0, 1]
    assert packed["kind"].tolist() == ["hit", "miss", "false alarm"]
    np.testing.assert_array_equal(packed["map"][0], maps[1, :, :, 0])
    np.testing.assert_array_equal(packed["map"][1], maps[0, :, :, 1])
    start = 0
    for end, value in zip(packed["ends"], (30, 200), strict=True):
        thumbnail = Image.open(io.BytesIO(packed["thumbnails"][start:end].tobytes()))
        assert thumbnail.size == (gallery.THUMBNAIL_SIDE, gallery.THUMBNAIL_SIDE)
        assert abs(int(np.asarray(thumbnail)[50, 50, 0]) - value) <= 2
        start = end
    assert start == len(packed["thumbnails"])
