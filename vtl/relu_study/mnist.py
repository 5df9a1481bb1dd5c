"""Handwritten digits with one label each: MNIST from its IDX files, and scikit-learn's digits.

The format is described at http://yann.lecun.com/exdb/mnist: a magic number for the type and the
number of axes, the length of each axis as a big-endian int32, then the bytes.
"""

import gzip
import hashlib
import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits

from vtl.data.fetch import Download, fetch
from vtl.errors import UserError, check_choice
from vtl.files import cache_holding, user_path
from vtl.untrusted import open_plain, printable, reading, unpacked_bound

NUM_CLASSES = 10

_HOSTS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
DOWNLOADS = tuple(
    Download(f"{name}.gz", tuple(f"{host}{name}.gz" for host in _HOSTS), md5=md5)
    for name, md5 in _MD5.items()
)
_PREFIXES = {"train": "train", "test": "t10k"}

_IMAGES_MAGIC, _LABELS_MAGIC = 0x803, 0x801
"""Unsigned bytes with three axes, and with one."""

_GZIP_MAGIC = b"\x1f\x8b"

_DIGITS_TEST = 300
"""Of scikit-learn's 1,797 digits; their writers are not named, so any of them will do."""


class Digits(NamedTuple):
    """The digits of one split: images [N, H, W] uint8, black is 0; labels [N] uint8, 0 to 9."""

    images: np.ndarray
    labels: np.ndarray


def read(name: str, root: str) -> dict[str, Digits]:
    """The splits `train` and `test` of `mnist` or `digits`.

    MNIST comes from `root`, the directory of its four IDX files (.gz or not). If `root` is "", it
    is fetched into the cache. The digits, 8 x 8 pixels, come with scikit-learn.

    Raises:
        FetchError: MNIST is not here and can't be fetched.
        UserError: a file is missing, damaged or of another kind, or `name` is unknown.
    """
    check_choice("data.name", name, READERS)
    return READERS[name](root)


def describe(name: str, splits: dict[str, Digits]) -> dict[str, Any]:
    """What results record about their data: the number of digits and the sha256 of each split."""
    return {
        "name": name,
        "num_images": {role: len(split.labels) for role, split in splits.items()},
        "sha256": {
            role: hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).hexdigest()
            for role, split in splits.items()
        },
    }


def _read_mnist(root: str) -> dict[str, Digits]:
    directory = user_path(root) if root else _fetch()
    if not directory.is_dir():
        raise UserError(
            f"data.root {printable(directory)} is not a directory"
            f"{_hint([directory]) if directory.exists() else ''}"
        )
    splits = {}
    for role, prefix in _PREFIXES.items():
        images_path = _find(directory, f"{prefix}-images-idx3-ubyte")
        labels_path = _find(directory, f"{prefix}-labels-idx1-ubyte")
        images = _read_idx(images_path, _IMAGES_MAGIC)
        labels = _read_idx(labels_path, _LABELS_MAGIC)
        if len(images) != len(labels):
            raise UserError(
                f"{images_path} has {len(images)} images, but {labels_path} has {len(labels)} "
                "labels: they are not of the same split"
            )
        if images.size == 0:
            raise UserError(f"{images_path} has no images")
        if labels.max() >= NUM_CLASSES:
            raise UserError(
                f"{printable(labels_path)}: labels must be 0 to 9, got {labels.max()} (EMNIST has "
                "letters too)"
            )
        splits[role] = Digits(images, labels)
    if splits["train"].images.shape[1:] != splits["test"].images.shape[1:]:
        raise UserError(f"the train and test images in {directory} have different sizes")
    return splits


def _fetch() -> Path:
    cache = cache_holding(*(f"mnist/{download.filename}" for download in DOWNLOADS))
    directory = cache / "mnist"
    names = ", ".join(download.filename for download in DOWNLOADS)
    instead = f"put {names} into {directory}, or say where they are with --config.data.root"
    for download in DOWNLOADS:
        fetch(download, directory, instead=instead)
    return directory


def _find(directory: Path, name: str) -> Path:
    """The file of a name, also as Kaggle, 7-Zip, torchvision and file managers leave it.

    `train-images.idx3-ubyte`, packed or not, in other case, in a folder of that name or in raw/.
    """
    with reading(directory):
        there = sorted(directory.iterdir())
        places = [path for path in there if path.is_dir() and _plain_name(path) == name]
        places += [directory / "raw", directory / "MNIST" / "raw"]
        there += [path for place in places if place.is_dir() for path in sorted(place.iterdir())]
        fitting = [path for path in there if _plain_name(path) == name and not path.is_dir()]
    # As it was published first, then unpacked ones.
    fitting.sort(key=lambda path: (path.parent != directory, path.name != name, len(path.name)))
    if fitting:
        return fitting[0]
    others = ", ".join(printable(path.name, 50) for path in there[:4]) or "nothing"
    raise UserError(
        f"data.root {printable(directory)} has neither {name} nor {name}.gz; there "
        f"{'are' if there[1:] else 'is'} {others}{_hint(there)}"
    )


def _plain_name(path: Path) -> str:
    """`Train-Images.idx3-ubyte.gz` -> `train-images-idx3-ubyte`."""
    return path.name.lower().removesuffix(".gz").replace(".", "-")


def _hint(there: list[Path]) -> str:
    names = [path.name.lower() for path in there]
    if any(name.startswith("emnist") for name in names):
        return " (EMNIST has letters too; MNIST has the digits)"
    if any(name.endswith((".npz", ".csv", ".parquet")) for name in names):
        return " (MNIST is read from its four IDX files)"
    return ""


def _read_idx(path: Path, magic: int) -> np.ndarray:
    """The array of an IDX file of unsigned bytes, whose first bytes must be `magic`.

    The file is gzipped where its content says so, whatever its name. Its header says how long the
    rest must be; no more is unpacked.
    """
    name = printable(path)
    with open_plain(path) as packed, reading(path, "get the file again"):
        is_gzip = packed.read(2) == _GZIP_MAGIC
        num_packed = packed.seek(0, io.SEEK_END)
        packed.seek(0)
        file = gzip.GzipFile(fileobj=packed) if is_gzip else packed
        header_size = 4 * (1 + (magic & 0xFF))
        content = file.read(header_size)
        if len(content) < header_size:
            raise UserError(f"{name} is truncated: its {len(content)} bytes are less than a header")
        header = np.frombuffer(content, ">u4")
        if header[0] != magic:
            raise UserError(
                f"{name} holds something else: its magic number must be {magic:#010x}, got "
                f"{header[0]:#010x}"
            )
        shape = tuple(int(length) for length in header[1:])
        expected = math.prod(shape)
        can_be = unpacked_bound(num_packed) if is_gzip else num_packed - header_size
        if expected > can_be:
            raise UserError(
                f"{name} is truncated: its header asks for {expected:,} bytes of data, got at "
                f"most {can_be:,}"
            )
        data = file.read(expected + 1)  # one more shows that there is one more
    if len(data) > expected:
        raise UserError(f"{name} is too long: its header asks for {expected:,} bytes of data")
    if len(data) < expected:
        raise UserError(
            f"{name} is truncated: its header asks for {expected:,} bytes of data, got "
            f"{len(data):,}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_digits(root: str) -> dict[str, Digits]:
    if root:
        raise UserError(
            f"data.root must be empty for data.name=digits, which has no files, got {root}"
        )
    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(labels))
    rows = {"train": order[_DIGITS_TEST:], "test": order[:_DIGITS_TEST]}
    return {role: Digits(images[chosen], labels[chosen]) for role, chosen in rows.items()}


READERS = {"mnist": _read_mnist, "digits": _read_digits}
