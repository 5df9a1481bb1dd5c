import gzip
import os
import struct
import tracemalloc

import numpy as np
import pytest

from vtl.data import fetch as fetch_module
from vtl.errors import FetchError, UserError
from vtl.relu_study import mnist


def idx(array, magic=None):
    """An IDX file's bytes, written by hand."""
    magic = 0x800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (7, 4, 5), np.uint8),
        "train-labels-idx1-ubyte": np.array([5, 0, 4, 1, 9, 2, 1], np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (3, 4, 5), np.uint8),
        "t10k-labels-idx1-ubyte": np.array([7, 2, 1], np.uint8),
    }


@pytest.fixture
def root(tmp_path, arrays):
    """Two of the files as they are unpacked, two as they are served."""
    for number, (name, array) in enumerate(arrays.items()):
        if number % 2:
            (tmp_path / name).write_bytes(idx(array))
        else:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path


def test_idx_files_are_read_gzipped_or_not(root, arrays):
    splits = mnist.read("mnist", str(root))
    for role, prefix in (("train", "train"), ("test", "t10k")):
        np.testing.assert_array_equal(splits[role].images, arrays[f"{prefix}-images-idx3-ubyte"])
        np.testing.assert_array_equal(splits[role].labels, arrays[f"{prefix}-labels-idx1-ubyte"])
        assert splits[role].images.dtype == splits[role].labels.dtype == np.uint8


def cut(root, arrays):
    (root / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(7, np.uint8))[:-2])


def cut_header(root, arrays):
    (root / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08")


def cut_gzip(root, arrays):
    path = root / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])


def no_gzip(root, arrays):
    (root / "t10k-images-idx3-ubyte.gz").write_bytes(b"<html>not found</html>")


def wrong_magic(root, arrays):
    content = idx(arrays["train-labels-idx1-ubyte"], magic=0x0D01)
    (root / "train-labels-idx1-ubyte").write_bytes(content)


def images_for_labels(root, arrays):
    content = idx(arrays["train-images-idx3-ubyte"])
    (root / "train-labels-idx1-ubyte").write_bytes(content)


def too_long(root, arrays):
    path = root / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes() + b"\0")


def other_length(root, arrays):
    (root / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(6, np.uint8)))


def other_labels(root, arrays):
    (root / "train-labels-idx1-ubyte").write_bytes(idx(np.full(7, 10, np.uint8)))


def other_size(root, arrays):
    content = gzip.compress(idx(np.zeros((3, 5, 5), np.uint8)))
    (root / "t10k-images-idx3-ubyte.gz").write_bytes(content)


def empty(root, arrays):
    (root / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((0, 4, 5), "u1"))))
    (root / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(0, np.uint8)))


def missing(root, arrays):
    (root / "t10k-labels-idx1-ubyte").unlink()


DAMAGES = {
    cut: "train-labels-idx1-ubyte is truncated: .* 7 bytes of data, got at most 5",
    cut_header: "train-labels-idx1-ubyte is truncated: its 3 bytes",
    cut_gzip: "t10k-images-idx3-ubyte.gz can't be read: .+; get the file again",
    no_gzip: "t10k-images-idx3-ubyte.gz .* must be 0x00000803, got 0x3c68746d",
    wrong_magic: "train-labels-idx1-ubyte .* must be 0x00000801, got 0x00000d01",
    images_for_labels: "train-labels-idx1-ubyte .* must be 0x00000801, got 0x00000803",
    too_long: "t10k-labels-idx1-ubyte is too long: its header asks for 3 bytes of data",
    other_length: "train-images-idx3-ubyte.gz has 7 images, .*labels-idx1-ubyte has 6 labels",
    other_labels: "train-labels-idx1-ubyte: labels must be 0 to 9, got 10",
    other_size: "train and test images in .* have different sizes",
    empty: "t10k-images-idx3-ubyte.gz has no images",
    missing: r"has neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte\.gz",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files(root, arrays, damage):
    damage(root, arrays)
    with pytest.raises(UserError, match=DAMAGES[damage]) as caught:
        mnist.read("mnist", str(root))
    assert len(str(caught.value).splitlines()) <= 3


def test_other_names_and_roots(tmp_path):
    with pytest.raises(UserError, match=r"data\.name is 'cifar': choose one of mnist, digits"):
        mnist.read("cifar", "")
    with pytest.raises(UserError, match="nowhere is not a directory"):
        mnist.read("mnist", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"data\.root must be empty for data\.name=digits"):
        mnist.read("digits", str(tmp_path))


def test_without_a_network_it_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("VTL_CACHE", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(FetchError, match=r"could not fetch train-images-idx3-ubyte\.gz") as caught:
        mnist.read("mnist", "")
    assert "ossci-datasets" in str(caught.value)
    assert "storage.googleapis.com" in str(caught.value)
    assert f"t10k-labels-idx1-ubyte.gz into {tmp_path / 'mnist'}" in str(caught.value)
    assert "--config.data.root" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_the_cache_is_checked_and_read(root, tmp_path_factory, arrays, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("VTL_CACHE", str(cache))
    (cache / "mnist").mkdir()
    for name, array in arrays.items():
        (cache / "mnist" / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    with pytest.raises(UserError, match="is not the expected file: the file has md5"):
        mnist.read("mnist", "")
    monkeypatch.setattr(fetch_module, "_difference", lambda download, path: "")
    np.testing.assert_array_equal(
        mnist.read("mnist", "")["test"].labels, arrays["t10k-labels-idx1-ubyte"]
    )


def test_scikit_learns_digits():
    splits = mnist.read("digits", "")
    assert splits["train"].images.shape == (1497, 8, 8)
    assert splits["test"].images.shape == (300, 8, 8)
    assert splits["train"].images.max() == 255
    seen = {image.tobytes() for image in splits["train"].images}
    assert sum(image.tobytes() in seen for image in splits["test"].images) == 0
    assert all(set(split.labels) == set(range(10)) for split in splits.values())
    described = mnist.describe("digits", splits)
    assert described["num_images"] == {"train": 1497, "test": 300}
    assert len(set(described["sha256"].values())) == 2


def as_kaggle(name):
    return name.replace("-idx", ".idx")


SPELLINGS = {
    "published": lambda name: name,
    "kaggle": as_kaggle,
    "kaggle's folders": lambda name: f"{as_kaggle(name)}/{as_kaggle(name)}",
    "torchvision, inside": lambda name: f"raw/{name}",
    "torchvision": lambda name: f"MNIST/raw/{name}",
    "upper case": str.upper,
    "packed, without .gz": lambda name: name,
    ".gz, unpacked by the browser": lambda name: f"{name}.gz",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_other_spellings_of_the_names(tmp_path, arrays, spelling):
    for name, array in arrays.items():
        path = tmp_path / SPELLINGS[spelling](name)
        path.parent.mkdir(parents=True, exist_ok=True)
        is_packed = spelling.startswith("packed")
        path.write_bytes(gzip.compress(idx(array)) if is_packed else idx(array))
    splits = mnist.read("mnist", str(tmp_path))
    np.testing.assert_array_equal(splits["test"].images, arrays["t10k-images-idx3-ubyte"])
    np.testing.assert_array_equal(splits["train"].labels, arrays["train-labels-idx1-ubyte"])


def test_the_published_name_comes_first(root, arrays):
    (root / "raw").mkdir()
    for name in arrays:
        (root / "raw" / name).write_bytes(b"something else")
    assert len(mnist.read("mnist", str(root))["test"].labels) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist.npz", "there is mnist.npz .MNIST is read from its four IDX files."),
        ("emnist-letters-train-images-idx3-ubyte", "EMNIST has letters too"),
        ("notes.txt", "there is notes.txt$"),
        ("\x1b[31m.txt", r"there is \\x1b\[31m.txt$"),
    ],
)
def test_what_lies_there_is_named(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=message):
        mnist.read("mnist", str(tmp_path))
    with pytest.raises(UserError, match="is not a directory"):
        mnist.read("mnist", str(tmp_path / name))


def test_a_bomb_is_not_unpacked(root):
    """The header's size bounds what is unpacked, and the file's size bounds the header's."""
    path = root / "t10k-images-idx3-ubyte.gz"
    small, large = struct.pack(">4I", 0x803, 3, 4, 5), struct.pack(">4I", 0x803, 2**30, 28, 28)
    bombs = [gzip.compress(header + bytes(100 << 20)) for header in (small, large)]
    path.write_bytes(bombs[0])
    tracemalloc.start()
    with pytest.raises(UserError, match="is too long: its header asks for 60 bytes"):
        mnist.read("mnist", str(root))
    assert tracemalloc.get_traced_memory()[1] < 5e6
    path.write_bytes(bombs[1])
    with pytest.raises(
        UserError, match=r"is truncated: its header asks for 841,813,590,016 .* got at most"
    ):
        mnist.read("mnist", str(root))
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_only_plain_files_are_read(root):
    path = root / "t10k-labels-idx1-ubyte"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is a pipe and not a plain file"):
        mnist.read("mnist", str(root))
