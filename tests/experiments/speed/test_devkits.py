import numpy as np
from PIL import Image

from experiments.speed import devkits
from tests.devkit import write_devkit
from vtl.data import splits, voc


def test_repeated_photos_have_ids_of_their_own_and_keep_their_labels(tmp_path):
    root = write_devkit(tmp_path, {"trainval": 3, "test": 2})
    target = devkits.repeat_photos(root, tmp_path / "more", {"trainval": 7, "test": 1})
    by_role = splits.read_splits(target, {"train": "trainval", "test": "test"})
    assert len(set(by_role["train"].ids)) == 7
    assert len(by_role["test"]) == 1
    before = voc.read_split(root, "trainval")
    rows = [0, 1, 2, 0, 1, 2, 0]
    np.testing.assert_array_equal(by_role["train"].labels, before.labels[rows])
    np.testing.assert_array_equal(by_role["train"].difficult, before.difficult[rows])
    assert [path.resolve() for path in by_role["train"].paths] == [before.paths[r] for r in rows]
    assert all(path.is_symlink() for path in by_role["test"].paths)


def test_drawn_photos_are_distinct_and_the_same_at_each_call(tmp_path):
    first, again = (devkits.draw_photos(tmp_path / name, 2) for name in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert first[0].read_bytes() != first[1].read_bytes()
    with Image.open(first[0]) as image:
        assert (image.size, image.format) == ((500, 375), "JPEG")
