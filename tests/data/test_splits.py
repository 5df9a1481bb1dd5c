"""Whichever layout photos are in, a run gets the same splits; drawn ones hold still."""

import json

import numpy as np
import pytest

from tests.data.layouts.photos import write_photos
from tests.devkit import write_devkit
from vtl import identity
from vtl.data import draw, split, splits, voc
from vtl.data.split import OneHot
from vtl.errors import UserError


def error_of(*arguments, **options):
    with pytest.raises(UserError) as caught:
        splits.read(*arguments, **options)
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def as_table(devkit, path):
    """A devkit's labels as a CSV with VOC's flags."""
    lines = []
    for name in ("trainval", "test"):
        its = voc.read_split(devkit, name)
        flags = np.where(its.labels, 1, np.where(its.difficult, 0, -1))
        lines += [
            ",".join([f"{photo}.jpg", name, *map(str, row)])
            for photo, row in zip(its.ids, flags, strict=True)
        ]
    path.write_text("\n".join([",".join(["photo", "split", *its.classes]), *lines]))
    return path


def as_coco(devkit, root):
    """The same as COCO's instances, a file a split, beside links to the photos."""
    (root / "annotations").mkdir(parents=True)
    for name in ("trainval", "test"):
        its = voc.read_split(devkit, name)
        (root / name).symlink_to(devkit / "JPEGImages")
        objects = [
            {"image_id": int(row), "category_id": int(column), "iscrowd": crowd}
            for crowd, flags in enumerate((its.labels, its.difficult))
            for row, column in np.argwhere(flags)
        ]
        images = [{"id": n, "file_name": f"{i}.jpg"} for n, i in enumerate(its.ids)]
        categories = [{"id": n, "name": c} for n, c in enumerate(its.classes)]
        path = root / "annotations" / f"instances_{name}.json"
        content = {"images": images, "annotations": objects, "categories": categories}
        path.write_text(json.dumps(content))
    return root


@pytest.fixture
def devkit(tmp_path):
    return write_devkit(tmp_path, {"trainval": 8, "test": 6}, size=32)


def test_a_devkit_a_table_and_coco_say_the_same(devkit, tmp_path):
    table = as_table(devkit, tmp_path / "labels.csv")
    ways = {
        "devkit": splits.read(devkit),
        "table": splits.read(devkit / "JPEGImages", labels=table, flags="voc"),
        "coco": splits.read(as_coco(devkit, tmp_path / "coco")),
    }
    for by_role in ways.values():
        assert list(by_role) == ["train", "test"]
        for role, its in by_role.items():
            expected = ways["devkit"][role]
            assert its.name == {"train": "trainval", "test": "test"}[role]
            assert [path.name for path in its.paths] == [path.name for path in expected.paths]
            assert its.classes == expected.classes
            for flags in ("labels", "label_mask", "difficult"):
                np.testing.assert_array_equal(getattr(its, flags), getattr(expected, flags))


def test_a_root_that_is_no_layout(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is no layout that is known" in error_of(tmp_path / "empty")
    assert "is not a directory" in error_of(tmp_path / "missing")
    write_photos(tmp_path / "flat", ["1.jpg"])
    (tmp_path / "flat" / "my labels.csv").write_text("photo,cat\n1.jpg,1\n")
    assert "Is it --config.data.labels=my labels.csv?" in error_of(tmp_path / "flat")
    assert "is no file, here or in" in error_of(tmp_path / "flat", labels="no.csv")


def test_inside_a_devkit_it_is_named(devkit):
    assert f"It lies in a devkit: {devkit}." in error_of(devkit / "JPEGImages")


def test_names_of_splits(tmp_path):
    root = tmp_path / "photos"
    write_photos(
        root,
        [f"{part}/{c}/{n}.jpg" for n, part in enumerate(["train", "val", "extra"]) for c in "ab"],
    )
    (root / "extra").rename(root / "test")
    by_role = splits.read(root)
    assert {role: its.name for role, its in by_role.items()} == {r: r for r in splits.ROLES}
    asked = {"train": "train", "test": "val"}
    assert splits.read(root, names=asked)["test"].name == "val"
    message = error_of(root, names={"train": "train", "test": "extra"})
    assert "has no split extra; its splits are train, val, test" in message


def test_a_missing_test_split_is_named(tmp_path):
    write_photos(tmp_path, [f"{part}/{c}/{part}.jpg" for part in ("train", "val") for c in "ab"])
    message = error_of(tmp_path)
    assert "has no split test; its splits are train, val" in message
    assert "--config.data.test_split=SPLIT" in message
    assert list(splits.read(tmp_path, names={"train": "trainval", "test": "val"})) == [
        *("train", "test")
    ]


def drawn_names(root, names, **options):
    lines = [f"{name},{'ab'[n % 2]}" for n, name in enumerate(names)]
    (root.parent / "t.csv").write_text("\n".join(["photo,label", *lines]))
    by_role = splits.read(root, labels=root.parent / "t.csv", **options)
    return {photo: role for role, its in by_role.items() for photo in its.ids}


def test_more_photos_move_none(tmp_path):
    root = tmp_path / "photos"
    names = write_photos(root, [f"{n}.png" for n in range(200)])
    before = drawn_names(root, names)
    counts = np.unique(list(before.values()), return_counts=True)[1]
    assert np.all(np.abs(counts - [40, 140, 20]) < 25)  # test, train, val
    more = write_photos(root, [f"new {n}.png" for n in range(100)], first=1000)
    after = drawn_names(root, [*more[:50], *reversed(names), *more[50:]])
    assert {name: after[name] for name in names} == before
    assert len(after) == 300


def test_a_group_stays_together():
    groups = [f"patient {n % 40}" for n in range(400)]
    names = draw.drawn(groups, (0.6, 0.2, 0.2))
    assert len({*zip(groups, names, strict=True)}) == 40
    assert set(names) == {"train", "val", "test"}


@pytest.mark.parametrize("fractions", [(1, 0), (0.5, 0.2, 0.2), (0, 0.5, 0.5), (2, -1, 0)])
def test_fractions_that_mean_nothing(fractions):
    with pytest.raises(UserError, match=r"data\.split_fractions are"):
        draw.drawn(["a", "b"], fractions)


def test_fractions_of_zero_draw_nothing():
    groups = [str(n) for n in range(1000)]
    assert set(draw.drawn(groups, (0.8, 0, 0.2))) == {"train", "test"}
    assert set(draw.drawn(groups, (0.9, 0.1, 0.0))) == {"train", "val"}
    with pytest.raises(UserError, match="none falls into train and test"):
        draw.drawn(["a"] * 5, (0.7, 0.1, 0.2))


def test_torn_groups_are_said(tmp_path, caplog):
    write_photos(tmp_path / "p", ["1.jpg", "2.jpg"])
    table = tmp_path / "t.csv"
    table.write_text("photo,split,group,label\n1.jpg,train,g,a\n2.jpg,test,g,b\n")
    splits.read(tmp_path / "p", labels=table)
    assert "1 groups are in several splits: g" in caplog.text


def test_one_hot_is_the_array():
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 5, 20).astype(np.int32)
    dense = np.eye(5, dtype=np.uint8)[numbers]
    held = OneHot(numbers, 5)
    rows = rng.permutation(20)[:7]
    np.testing.assert_array_equal(held, dense)
    np.testing.assert_array_equal(held[rows], dense[rows])
    np.testing.assert_array_equal(split.rows_of(held, rows), dense[rows])
    assert identity.array_sha256(held) == identity.array_sha256(dense)
    every = split.every(1, (20, 5))
    assert identity.array_sha256(every) == identity.array_sha256(np.ones((20, 5), np.uint8))
    assert split.rows_of(every, rows).shape == (7, 5)


def test_what_own_data_is_called():
    from ml_collections import ConfigDict

    for root, name, expected in [
        ("my photos/", "voc2007", "my photos"),
        ("/data/VOC2007", "voc2007", "VOC2007"),
        ("/data/VOC2007", "birds", "birds"),
        ("", "voc2007", "voc2007"),
    ]:
        assert splits.name_of(ConfigDict({"root": root, "name": name})) == expected


def test_val_is_not_taken_where_it_is_the_test_split(tmp_path):
    write_photos(tmp_path, [f"{part}/{c}/{part}.jpg" for part in ("train", "val") for c in "ab"])
    by_role = splits.read(tmp_path, names={"train": "trainval", "val": "", "test": "val"})
    assert {role: its.name for role, its in by_role.items()} == {"train": "train", "test": "val"}


def test_a_label_that_became_unknown_is_another_content(tmp_path):
    write_photos(tmp_path / "p", ["1.jpg", "2.jpg"])
    table, contents = tmp_path / "t.csv", []
    for cell in ("0", "?", "1"):
        table.write_text(f"photo,split,a,b\n1.jpg,train,1,{cell}\n2.jpg,test,0,1\n")
        contents.append({"data": identity.of_splits(splits.read(tmp_path / "p", labels=table))})
    for one, other in ((0, 1), (1, 0), (1, 2)):
        words = identity.other_content(contents[one], contents[other])
        assert words == ["labels of the train split"]
