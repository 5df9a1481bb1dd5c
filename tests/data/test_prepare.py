"""Photos that splits share, broken photos, and decoding that goes on after a stop."""

import csv
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from sklearn.decomposition import PCA

from tests.data.layouts.photos import write_photo
from tests.data.test_held_out import photos as patterns
from tests.devkit import write_devkit
from vtl.data import decoded, duplicates, images, prepare, splits
from vtl.errors import UserError
from vtl.preprocessing import TORCHVISION

PREPROCESSING = TORCHVISION.override(resize="squash", image_size=32)


def make(tmp_path, contradicts=False):
    """Photos of coarse patterns: 8 to train on, 4 in test, of which three are in train too."""
    root = tmp_path / "photos"
    lines = ["photo,split,label"]
    pixels = patterns(12, size=64)
    for number, image in enumerate(pixels):
        part = "train" if number < 8 else "test"
        path = root / part / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        lines.append(f"{part}/{number}.png,{part},{'cat' if number % 2 else 'dog'}")
    shutil.copy(root / "train" / "1.png", root / "test" / "9.png")  # the same file
    Image.fromarray(pixels[2]).save(root / "test" / "10.png", compress_level=0)  # the same pixels
    darker = np.clip(pixels[3] * 0.9 + 5, 0, 255).astype(np.uint8)
    Image.fromarray(darker).save(root / "test" / "11.png")
    if contradicts:
        shutil.copy(root / "train" / "4.png", root / "train" / "5.png")
        lines[10] = lines[10].replace("cat", "dog")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return splits.read(root, labels=tmp_path / "labels.csv")


def prepared(by_role, broken="error", duplicates="warn", decode="exact"):
    data = ConfigDict({"broken": broken, "duplicates": duplicates, "decode": decode})
    return prepare.prepare(by_role, PREPROCESSING, data, crops=False)


def test_how_photos_were_decoded_is_recorded(tmp_path):
    by_role = make(tmp_path)
    for decode in ("exact", "fast"):
        assert prepared(by_role, decode=decode).record()["decode"] == decode


@pytest.mark.parametrize("layout", ["devkit", "above", "demo", "folders", "table", "labels"])
def test_auto_is_exact_in_vocs_layout_alone(tmp_path, layout):
    root = tmp_path / "photos"
    data = ConfigDict({"root": str(root), "labels": "", "decode": "auto"})
    if layout in ("devkit", "above", "labels"):
        devkit = write_devkit(root, {"trainval": 2})
        data.root = str(root if layout == "above" else devkit)
    elif layout == "demo":
        data.root = ""
    elif layout == "folders":
        write_photo(root / "cat" / "1.jpg", 1)
    data.labels = "labels.csv" if layout in ("table", "labels") else ""
    prepare.settle_decode(data, None)
    is_read_as_vocs = layout in ("devkit", "above", "demo")
    assert data.decode == ("exact" if is_read_as_vocs else "fast")


@pytest.mark.parametrize("before", [None, "exact", "fast", "odd", 7])
@pytest.mark.parametrize("decode", ["auto", "exact", "fast"])
def test_a_run_goes_on_as_it_began_unless_it_is_told(tmp_path, decode, before):
    data = ConfigDict({"root": str(tmp_path), "labels": "", "decode": decode})
    prepare.settle_decode(data.lock(), before)
    goes_on = before if before in images.DECODE else "fast"
    assert data.decode == (goes_on if decode == "auto" else decode)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VTL_CACHE", str(tmp_path / "cache"))


def test_photos_that_splits_share_are_named(tmp_path, caplog):
    found = prepared(make(tmp_path))
    kinds = {pair.kind: pair.rows for pair in found.pairs}
    assert kinds == {"same file": (1, 1), "same pixels": (2, 2), "near-duplicate": (3, 3)}
    assert (
        "3 photos of test are also in train (1 same file, 1 same pixels, 1 near-duplicate): "
        "test/9.png is train/1.png" in caplog.text
    )
    assert len(found.splits["train"]) == 8
    assert found.record()["duplicates"] == dict.fromkeys(duplicates.KINDS[:3], 1)
    found.write(tmp_path)
    rows = list(csv.DictReader((tmp_path / "duplicates.csv").read_text().splitlines()))
    assert [row["kind"] for row in rows] == list(duplicates.KINDS[:3])
    assert rows[0]["photo"] == str(tmp_path / "photos" / "train" / "1.png")
    assert rows[0]["other_photo"] == str(tmp_path / "photos" / "test" / "9.png")
    assert (rows[0]["split"], rows[0]["other_split"]) == ("train", "test")


def test_they_can_be_an_error(tmp_path):
    with pytest.raises(UserError) as caught:
        prepared(make(tmp_path), duplicates="error")
    assert "3 photos of test are also in train" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_they_can_be_dropped_from_train(tmp_path):
    by_role = make(tmp_path)
    found = prepared(by_role, duplicates="drop_from_train")
    rows = np.array([0, 4, 5, 6, 7])
    assert found.splits["train"].ids == tuple(by_role["train"].ids[row] for row in rows)
    assert found.record()["dropped_from_train"] == 3
    whole = prepared(by_role)
    np.testing.assert_array_equal(found.photos["train"][:], whole.photos["train"][rows])
    assert found.photos["train"].shape == (5, 32, 32, 3)
    assert found.photos["train"].name != whole.photos["train"].name
    np.testing.assert_array_equal(found.photos["test"][:], whole.photos["test"][:])


def test_contradicting_labels_are_named(tmp_path, caplog):
    found = prepared(make(tmp_path, contradicts=True))
    others = {pair.roles: pair.rows for pair in found.pairs if pair.has_other_labels}
    assert others == {("train", "train"): (4, 5), ("train", "test"): (1, 1)}
    assert "2 photos are there twice with other labels: train/5.png is train/4" in caplog.text


def test_what_is_unlike_is_no_pair(tmp_path, caplog):
    for number in range(30):
        folder = f"{'train' if number % 2 else 'test'}/{'ab'[number % 4 // 2]}"
        path = tmp_path / folder / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(patterns(1, seed=number)[0]).save(path)
    found = prepared(splits.read(tmp_path))
    assert not found.pairs
    found.write(tmp_path)
    assert not (tmp_path / "duplicates.csv").exists()
    assert "also in" not in caplog.text


def break_photo(by_role, role, row):
    by_role[role].paths[row].write_bytes(b"no photo")


def test_broken_photos_are_an_error_or_left_out(tmp_path, caplog):
    by_role = make(tmp_path)
    for row in (0, 6):
        break_photo(by_role, "train", row)
    for _ in range(2):  # the second time the cache is filled
        with pytest.raises(UserError, match="2 of 8 photos can't be decoded") as caught:
            prepared(by_role)
        assert "train/0.png" in str(caught.value)
        found = prepared(by_role, broken="skip")
        assert found.splits["train"].ids == by_role["train"].ids[1:6] + by_role["train"].ids[7:]
        assert len(found.photos["train"]) == len(found.splits["train"]) == 6
        assert found.photos["train"][:].any(axis=(1, 2, 3)).all()
        assert set(found.record()["broken"]["train"]) == {"train/0.png", "train/6.png"}
    assert "2 of 8 photos of train can't be decoded and are left out" in caplog.text
    for row in range(4):
        break_photo(by_role, "test", row)
    with pytest.raises(UserError, match="none of the 4 photos of test can be decoded"):
        prepared(by_role, broken="skip")


def test_decoding_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    paths = [write_photo(tmp_path / f"{n}.jpg", n) for n in range(8)]
    options = {"size": 16, "rule": "squash", "interpolation": "bilinear", "num_threads": 1}
    options |= {"directory": tmp_path / "cache"}
    ids = [path.name for path in paths]
    expected = images.decode_once(paths, ids, **options | {"directory": tmp_path / "other"})[:]
    calls, load = [], images.load_resized

    def stops_at_the_fifth(path, *arguments):
        calls.append(path.name)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return load(path, *arguments)

    monkeypatch.setattr(images, "load_resized", stops_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        images.decode_once(paths, ids, **options)
    left = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert [name.startswith("unfinished_images_") for name in left] == [True, True]
    calls.clear()
    found = images.decode_once(paths, ids, **options)
    assert "4.jpg" in calls
    assert not {*calls} & {*ids[:4]}
    np.testing.assert_array_equal(found[:], expected)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_what_a_stop_left_is_checked(tmp_path, monkeypatch):
    paths = [write_photo(tmp_path / f"{n}.jpg", n) for n in range(4)]
    options = {"size": 16, "rule": "squash", "interpolation": "bilinear", "num_threads": 1}
    ids, directory = [path.name for path in paths], tmp_path / "cache"
    expected = images.decode_once(paths, ids, **options, directory=tmp_path / "other")[:]
    load = images.load_resized

    def stop(path, *arguments):
        if path == paths[3]:
            raise KeyboardInterrupt
        return load(path, *arguments)

    monkeypatch.setattr(images, "load_resized", stop)
    with pytest.raises(KeyboardInterrupt):
        images.decode_once(paths, ids, **options, directory=directory)
    monkeypatch.setattr(images, "load_resized", load)
    (unfinished,) = directory.glob("unfinished_*.npy")
    content = bytearray(unfinished.read_bytes())
    content[400] ^= 1
    unfinished.write_bytes(content)
    found = images.decode_once(paths, ids, **options, directory=directory)
    np.testing.assert_array_equal(found[:], expected)
    assert not decoded.unfinished_of(found.filename).exists()


def test_photos_are_looked_through_once(tmp_path, monkeypatch):
    photos = prepared(make(tmp_path)).photos
    expected = {role: duplicates.thumbnails(its[:]) for role, its in photos.items()}
    monkeypatch.delattr(duplicates, "_thumbnail")
    for role, its in photos.items():
        np.testing.assert_array_equal(duplicates.thumbnails(its), expected[role])
    with pytest.raises(NameError, match="_thumbnail"):
        duplicates.near_duplicates(photos["train"].rows(np.arange(2)))


def test_every_copy_in_train_is_dropped(tmp_path):
    """Also where photos are of one grey, which correlate with nothing."""
    root, lines = tmp_path / "photos", ["photo,split,label"]
    for number, (part, grey) in enumerate(
        [("train", 90), ("train", 90), ("train", 20), ("test", 90), ("test", 200)]
    ):
        path = root / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (grey,) * 3).save(path)
        lines.append(f"{number}.png,{part},{'ab'[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    by_role = splits.read(root, labels=tmp_path / "labels.csv")
    found = prepared(by_role, duplicates="drop_from_train")
    assert found.splits["train"].ids == ("2.png",)


def test_one_crc_by_chance_is_no_pair(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded.zlib, "crc32", lambda *pixels: 7)
    found = prepared(make(tmp_path))
    assert {pair.rows for pair in found.pairs} == {(1, 1), (2, 2), (3, 3)}
    assert not any(
        pair.has_other_labels for pair in found.pairs if pair.roles[0] == "train" == pair.roles[1]
    )


def test_what_was_broken_for_a_while_is_used_again(tmp_path, monkeypatch):
    by_role = make(tmp_path)
    load, bad = images.load_resized, by_role["train"].paths[2]

    def fails(path, *arguments):
        if path == bad:
            raise UserError(f"cannot read photo {path}: Too many open files")
        return load(path, *arguments)

    monkeypatch.setattr(images, "load_resized", fails)
    assert len(prepared(by_role, broken="skip").splits["train"]) == 7
    calls = []
    monkeypatch.setattr(images, "load_resized", lambda *a: calls.append(a[0]) or load(*a))
    assert len(prepared(by_role, broken="skip").splits["train"]) == 8
    assert set(calls) == {bad}


def features_of(num_train=300, num_test=120, seed=0):
    """Positive and off centre, as a ReLU makes them. Test photos 5 and 7 are like 290 and 3."""
    rng = np.random.default_rng(seed)
    train, test = (
        np.maximum(rng.normal(0.5, 1, (count, 64)), 0).astype(np.float32)
        for count in (num_train, num_test)
    )
    for its, row, noise in ((5, 290, 0.2), (7, 3, 0.3)):
        test[its] = np.maximum(train[row] + noise * rng.normal(size=64), 0)
    return {"train": train, "test": test}


@pytest.mark.parametrize("at_once", [120 * 7, 1 << 24])
@pytest.mark.parametrize("offset", [0, 50])
def test_similar_features_are_pairs_wherever_their_mean_lies(monkeypatch, at_once, offset):
    monkeypatch.setattr(duplicates, "_CORRELATIONS_AT_ONCE", at_once)
    features = {role: its + np.float32(offset) for role, its in features_of().items()}
    found = duplicates.similar(features)
    assert [pair.rows for pair in found] == [(290, 5), (3, 7)]
    assert {(pair.kind, pair.roles) for pair in found} == {("similar features", ("train", "test"))}
    axes = PCA(40, whiten=True).fit(np.concatenate([*features.values()]).astype(np.float64))
    monkeypatch.setattr(duplicates, "MAX_AXES", 40)
    one, other = axes.transform(features["train"][[290]]), axes.transform(features["test"][[5]])
    cosine = np.sum(one * other) / np.linalg.norm(one) / np.linalg.norm(other)
    assert duplicates.similar(features)[0].correlation == pytest.approx(cosine, abs=1e-3)


def test_too_few_or_too_many_features_are_not_compared(monkeypatch):
    features = features_of()
    monkeypatch.setattr(duplicates, "MAX_COMPARED", 420)
    assert duplicates.similar(features)
    monkeypatch.setattr(duplicates, "MAX_COMPARED", 419)
    assert duplicates.similar(features) == []
    few = {"train": features["train"][:200], "test": features["test"][:55]}
    few["test"][3] = few["train"][7]
    assert duplicates.similar(few) == []


def test_features_that_are_all_the_same_are_no_pairs():
    ones = np.ones((200, 8), np.float32)
    assert duplicates.similar({"train": ones, "test": ones}) == []


@pytest.mark.parametrize("kept", ["warn", "drop_from_train"])
def test_similar_features_stand_beside_what_pixels_found(tmp_path, caplog, monkeypatch, kept):
    """A pair is named once; rows count from before any was dropped."""
    monkeypatch.setattr(duplicates, "LEAST_PHOTOS", 0)
    found = prepared(make(tmp_path), duplicates=kept)
    by_photo = np.random.default_rng(0).normal(size=(12, 40)).astype(np.float32)
    by_photo[8] = by_photo[6]  # the first of test is like train's seventh
    by_photo[9] = by_photo[0]  # a copy of 1: it is named as that
    numbers = {
        role: [int(photo_id.rpartition("/")[2].removesuffix(".png")) for photo_id in split.ids]
        for role, split in found.splits.items()
    }
    caplog.clear()
    found = found.with_features({role: by_photo[rows] for role, rows in numbers.items()})
    assert [(pair.kind, pair.rows) for pair in found.pairs[3:]] == [("similar features", (6, 0))]
    assert "1 photos of test are also in train (1 similar features): test/8.png is train/6.png" in (
        caplog.text
    )
    assert found.record()["duplicates"] == dict.fromkeys(duplicates.KINDS, 1)
    found.write(tmp_path)
    last = (tmp_path / "duplicates.csv").read_text().splitlines()[-1].split(",")
    assert last[:2] == ["similar features", "1.0000"]
    assert last[-1] == ""
