import json
import zipfile

import numpy as np
import pytest

from vtl.data import deep_features
from vtl.errors import UserError

NAMES = np.array(["cat", "dog", "cow"])


def npz(path, **replaced):
    """Features like those of the lab's own script; a keyword replaces, adds or (None) removes."""
    rng = np.random.default_rng(0)
    arrays = {}
    for role in ("train", "test"):
        arrays[f"X_{role}"] = rng.random((12, 6)).astype(np.float32)
        arrays[f"Y_{role}"] = (rng.random((12, 3)) < 0.4).astype(np.float32)
    arrays |= replaced
    np.savez(path, **{key: x for key, x in arrays.items() if x is not None})
    return path


@pytest.mark.parametrize(
    ("arrays", "classes"),
    [
        ({}, ("class0", "class1", "class2")),
        ({"classes": NAMES}, ("cat", "dog", "cow")),
        ({"classes": NAMES.astype("S")}, ("cat", "dog", "cow")),
        ({"classes": np.array(["Süß", "猫", "c"])}, ("Süß", "猫", "c")),
    ],
)
def test_classes_are_text(tmp_path, arrays, classes):
    assert deep_features.read(npz(tmp_path / "f.npz", **arrays)).classes == classes


@pytest.mark.parametrize(
    "ids", [np.arange(12), np.arange(12).astype("U"), np.arange(12).astype("S")]
)
def test_ids_are_text(tmp_path, ids):
    found = deep_features.read(npz(tmp_path / "f.npz", ids_train=ids))
    assert found.splits["train"].ids == tuple(str(i) for i in range(12))


@pytest.mark.parametrize("dtype", [">f4", "f2", "f8", "u1", "i8"])
def test_numbers_become_float32(tmp_path, dtype):
    features = np.arange(72).reshape(12, 6).astype(dtype)
    found = deep_features.read(npz(tmp_path / "f.npz", X_train=features, X_test=features))
    assert found.splits["test"].features.dtype == np.float32
    np.testing.assert_array_equal(found.splits["test"].features, np.arange(72).reshape(12, 6))


def test_flags_may_be_bool_and_meta_bytes(tmp_path):
    flags = np.arange(36).reshape(12, 3) % 3 == 0
    path = npz(
        tmp_path / "f.npz",
        Y_train=flags,
        difficult_train=~flags,
        meta=np.array(b'{"layer": "layer4", "weights": null}'),
    )
    found = deep_features.read(path)
    np.testing.assert_array_equal(found.splits["train"].labels, flags)
    assert found.splits["train"].labels.dtype == np.uint8
    assert found.splits["train"].difficult.dtype == np.uint8
    assert found.meta == {"layer": "layer4"}


def meta(**content):
    return {"meta": np.array(json.dumps(content))}


ODD = [
    ({"classes": np.arange(3)}, "'classes' holds int64 and should hold text"),
    ({"classes": np.arange(3.0)}, "'classes' holds float64 and should hold text"),
    ({"classes": NAMES[:2]}, r"'classes' has the shape \[2\] and should have \[3\]"),
    ({"classes": NAMES[None]}, r"'classes' has the shape \[1, 3\] and should have \[3\]"),
    ({"classes": NAMES[[0, 1, 0]]}, "'classes' has cat 2 times"),
    ({"classes": np.array(["a", "", "b"])}, "'classes' has a class without a name"),
    ({"classes": np.array([b"a", b"\xff", b"c"])}, "'classes' holds text that is not Unicode"),
    ({"ids_test": np.arange(24).reshape(12, 2).astype("U")}, "'ids_test' has the shape"),
    ({"ids_test": np.arange(12.0)}, "'ids_test' holds float64 and should hold text"),
    ({"ids_test": np.array(3)}, "ids_test has no rows, but X_test has 12"),
    ({"meta": np.array("[1, 2]")}, "'meta' is a list of 2 and should be an object"),
    ({"meta": np.array("3")}, "'meta' is 3 and should be an object"),
    ({"meta": np.array(3)}, "'meta' holds int64 and should hold text"),
    ({"meta": np.array("[" * 9000)}, "'meta' is no JSON"),
    ({"meta": np.array(["{}", "{}"])}, "'meta' has 2 values and should be one JSON text"),
    (meta(weights="resnet50"), "'meta.weights' is 'resnet50' and should be an object"),
    (meta(data="voc"), "'meta.data' is 'voc' and should be an object"),
    (meta(data={"splits": ["a"]}), "'meta.data.splits' is a list of 1 and should be an object"),
    (meta(data={"ids_sha256": {"train": 3}}), "'meta.data.ids_sha256.train' is 3"),
    (meta(pool=True), "'meta.pool' is true and should be a whole number"),
    ({"paths": np.array(["a", None], object)}, "paths holds Python objects"),
    ({"X_train": np.full((12, 6), "0.5")}, "'X_train' holds <U3 and should hold numbers"),
    ({"X_train": np.full((12, 6), 1 + 2j)}, "'X_train' holds complex128"),
    ({"X_train": np.ones((12, 1, 1, 6))}, r"'X_train' has the shape \[12, 1, 1, 6\]"),
    ({"X_train": np.ones((12, 0)), "X_test": np.ones((12, 0))}, r"the shape \[12, 0\]"),
    ({"X_train": np.ones((6, 12))}, "Y_train has 12 rows, but X_train has 6"),
    ({"X_train": np.full((12, 6), 1e39)}, "X_train has NaN or infinity in 12 of 12 rows"),
    ({"X_a/../b": np.ones((12, 6)), "Y_a/../b": np.ones((12, 3))}, "'X_a/../b' is not named after"),
    ({"X_val": np.ones((12, 6))}, "lacks Y_val"),
    ({"Y_train": np.tile([1, 0, -1], (12, 1))}, "other values than 0 and 1, such as -1"),
    ({"Y_train": np.arange(12) % 3}, "'Y_train' has one number a photo and should have a column"),
    ({"Y_train": np.full((12, 3), 0.9)}, "other values than 0 and 1, such as 0.9"),
    ({"Y_train": np.full((12, 3), "1")}, "'Y_train' holds <U1 and should hold numbers"),
    ({"difficult_train": np.full((12, 3), 2)}, "'difficult_train' holds other values"),
    ({"difficult_train": np.full((12, 3), "0")}, "'difficult_train' holds <U1"),
]


@pytest.mark.parametrize(("arrays", "message"), ODD, ids=lambda x: x if isinstance(x, str) else "")
def test_what_is_odd_is_one_line_that_names_the_key(tmp_path, arrays, message):
    path = npz(tmp_path / "f.npz", **arrays)
    with pytest.raises(UserError, match=message) as caught:
        deep_features.read(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert line.isprintable()
    assert len(line) < len(str(path)) + 200


def test_names_from_the_file_are_printable(tmp_path):
    names = np.array(["\x1b[31m" + "x" * 5000, "b", "\x1b[31m" + "x" * 5000])
    with pytest.raises(UserError) as caught:
        deep_features.read(npz(tmp_path / "f.npz", classes=names))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_bomb_is_not_unpacked(tmp_path):
    """The size that a file may unpack to follows from its own."""
    path = tmp_path / "f.npz"
    arrays = {f"{x}_train": np.zeros((20_000_000, 4), np.uint8) for x in "XY"}
    np.savez_compressed(path, **arrays)
    with pytest.raises(UserError, match="would take 160,000,000 bytes unpacked"):
        deep_features.read(path)
    np.savez(path, **{key: x[:100] for key, x in arrays.items()})
    assert len(deep_features.read(path).splits["train"].features) == 100


def test_a_member_that_claims_more_than_there_is(tmp_path):
    path = npz(tmp_path / "f.npz")
    with zipfile.ZipFile(path) as archive:
        header = archive.read("X_train.npy")[:128].replace(b"(12, 6)", b"(9999999999, 6)", 1)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("X_extra.npy", header[:128])
    with pytest.raises(UserError, match="X_extra"):
        deep_features.read(path)
