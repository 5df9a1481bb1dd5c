"""The readers of what others wrote: for each, sound files and how vtl reads them."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from PIL import Image

from tests import tiny
from vtl.data import archives, corrected, deep_features, images, splits, voc
from vtl.decisions import Decisions
from vtl.relu_study import mnist
from vtl.review import corrections
from vtl.stored_labels import Labels, changed_since
from vtl.weights import formats, heads, sources


class Reader(NamedTuple):
    """How sound files are written into a directory, which of them is damaged, and the reading."""

    write: Callable[[Path], None]
    damaged: str
    read: Callable[[Path], Any]


def _photo(name: str, **options: Any) -> Reader:
    def write(directory: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        image.convert(options.pop("mode", "RGB")).save(directory / name, **options)

    def read(directory: Path) -> None:
        images.resize(images.load_rgb(directory / name), 32, "resize_crop", "bilinear")

    return Reader(write, name, read)


def _devkit(damaged: str) -> Reader:
    def write(directory: Path) -> None:
        root = directory / "VOC2007"
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / name).mkdir(parents=True)
        ids = ("000001", "000002")
        for number, photo_id in enumerate(ids):
            Image.new("RGB", (20, 20)).save(root / "JPEGImages" / f"{photo_id}.jpg")
            name = ("cat", "dog")[number]
            (root / "Annotations" / f"{photo_id}.xml").write_text(
                f"<annotation><object><name>{name}</name><difficult>0</difficult></object>"
                "</annotation>"
            )
        main = root / "ImageSets" / "Main"
        for split in ("train", "by_xml"):
            (main / f"{split}.txt").write_text("000001\n000002\n")
        (main / "cat_train.txt").write_text("000001  1\n000002 -1\n")
        (main / "dog_train.txt").write_text("000001 -1\n000002  1\n")

    split = "by_xml" if damaged.startswith("Annotations") else "train"
    return Reader(
        write, f"VOC2007/{damaged}", lambda directory: voc.read_split(directory / "VOC2007", split)
    )


def _torch_zip(directory: Path) -> None:
    import torch

    torch.save(_tensors(torch), directory / "w.pth")


def _torch_legacy(directory: Path) -> None:
    import torch

    torch.save(_tensors(torch), directory / "w.pth", _use_new_zipfile_serialization=False)


def _tensors(torch: Any) -> dict[str, Any]:
    from vtl.weights.formats import read

    path = tiny.write_weights(Path(_scratch()) / "tiny.safetensors")
    return {name: torch.tensor(np.array(x)) for name, x in read(path).tensors.items()}


def _scratch() -> str:
    import tempfile

    return tempfile.mkdtemp()


def _safetensors(directory: Path) -> None:
    tiny.write_weights(directory / "w.safetensors")


def _keras(directory: Path) -> None:
    with h5py.File(directory / "w.h5", "w") as file:
        names = [b"conv1_conv", b"conv1_bn"]
        file.attrs["layer_names"] = names
        for name in names:
            group = file.create_group(name.decode())
            group.attrs["weight_names"] = [name + b"/kernel:0"]
            group[f"{name.decode()}/kernel:0"] = np.zeros((7, 7, 3, 8), np.float32)


def _load(name: str) -> Callable[[Path], Any]:
    return lambda directory: sources.load(str(directory / name))


def _head(directory: Path) -> None:
    features = {"weights": {"sha256": "0" * 64}, "layer": "layer4", "pool": 1}
    kernel = np.zeros((8, 2), np.float32)
    decisions = Decisions((1.0, 2.0), (0.0, 0.5), (0.25, 0.75), "f1", "200 photos of val")
    heads.save(
        directory,
        kernel,
        np.zeros(2, np.float32),
        classes=("a", "b"),
        features=features,
        decisions=decisions,
    )


def _read_head(directory: Path) -> Any:
    from vtl.models.resnet import Architecture
    from vtl.preprocessing import TORCHVISION

    return heads.load(
        directory,
        classes=("a", "b"),
        weights_sha256="0" * 64,
        architecture=Architecture(18, 1 / 64, "v1.5", 1e-5, num_classes=None),
        preprocessing=TORCHVISION,
    )


def _features(directory: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"classes": ["a", "b"], "meta": json.dumps({"layer": "layer4"})}
    for role, count in (("train", 6), ("test", 4)):
        arrays[f"X_{role}"] = rng.normal(size=(count, 5)).astype(np.float32)
        arrays[f"Y_{role}"] = rng.integers(0, 2, (count, 2)).astype(np.float32)
        arrays[f"ids_{role}"] = [f"{role}{i}" for i in range(count)]
    np.savez(directory / "f.npz", **arrays)


def _digits(directory: Path) -> None:
    for prefix, count in (("train", 6), ("t10k", 3)):
        pixels = np.zeros((count, 28, 28), np.uint8)
        head = b"".join(n.to_bytes(4, "big") for n in (0x803, count, 28, 28))
        (directory / f"{prefix}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        head = b"".join(n.to_bytes(4, "big") for n in (0x801, count))
        (directory / f"{prefix}-labels-idx1-ubyte").write_bytes(head + bytes(count))


def _tar(directory: Path) -> None:
    import tarfile

    with tarfile.open(directory / "a.tar", "w") as tar:
        for name, content in (("VOCdevkit/a.txt", b"a" * 700), ("VOCdevkit/d/b.txt", b"b")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _unpack(directory: Path) -> None:
    shutil.rmtree(directory / "unpacked", ignore_errors=True)  # what is there is left alone
    archives.unpack_tar(directory / "a.tar", directory / "unpacked")


def _own_photos(damaged: str, content: str, beside: dict[str, str] | None = None) -> Reader:
    """Four photos, and files that say what is in them."""

    def write(directory: Path) -> None:
        for number in range(4):
            path = directory / "root" / "images" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20)).save(path)
        for name, text in {**(beside or {}), damaged: content}.items():
            (directory / "root" / name).parent.mkdir(exist_ok=True)
            (directory / "root" / name).write_text(text)

    def read(directory: Path) -> Any:
        labels = directory / "root" / damaged if damaged.startswith("labels.") else None
        options: dict[str, Any] = {"fractions": (1, 0, 0), "names": {"train": "trainval"}}
        return splits.read(directory / "root", labels=labels, **options)

    return Reader(write, f"root/{damaged}", read)


_FLAGS = 'photo,cat,big dog\nimages/0.png,1,0\n1,yes,?\n"images/2.png",0,1\nimages/3.png,no,\n'
_LABELS = "photo\tlabels\nimages/0.png\tcat; big dog\n1\t?\n2.png\tcat\n3.png\t\n"
_COCO = json.dumps(
    {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(4)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"image_id": n, "category_id": 1 + n % 2} for n in range(4)],
    }
)
_YOLO = {f"labels/{n}.txt": f"{n % 2} 0.5 0.5 0.1 0.1\n" for n in range(4)}
_NAMES = "train: images\nnames:\n  0: cat\n  1: dog\n"


def _correction(damaged: str) -> Reader:
    """A table, what a page of `vtl review` saved, and a log beside the table."""

    def write(directory: Path) -> None:
        table = directory / "labels.csv"
        table.write_text(_FLAGS)
        (directory / "corrections.csv").write_text(
            "photo,class,label,was\n1,cat,0,1\nimages/2.png,big dog,?,1\n1,big dog,?,?\n"
        )
        change = {"line": 3, "photo": "1", "class": "cat", "was": "1", "label": "0"}
        corrected.write_log(table, table.read_bytes(), table, [change])

    def read(directory: Path) -> Any:
        table = directory / "labels.csv"
        answers = corrections.read(directory / "corrections.csv")
        return corrections.applied(answers, table), corrected.notes(table)

    return Reader(write, damaged, read)


def _labels(directory: Path) -> None:
    np.savez(directory / "labels_train.npz", **_STORED._asdict())


_STORED = Labels(("0", "1"), ("cat", "dog"), np.eye(2, dtype=np.uint8), np.ones((2, 2), np.uint8))
_OTHERS = {"train": _STORED._replace(labels=1 - _STORED.labels)}

READERS = {
    "jpeg": _photo("p.jpg"),
    "png": _photo("p.png"),
    "palette_png": _photo("p.png", mode="P"),
    "webp": _photo("p.webp"),
    "gif": _photo("p.gif"),
    "tiff": _photo("p.tif"),
    "split": _devkit("ImageSets/Main/train.txt"),
    "class_file": _devkit("ImageSets/Main/cat_train.txt"),
    "annotation": _devkit("Annotations/000001.xml"),
    "safetensors": Reader(_safetensors, "w.safetensors", _load("w.safetensors")),
    "torch_zip": Reader(_torch_zip, "w.pth", _load("w.pth")),
    "torch_legacy": Reader(_torch_legacy, "w.pth", _load("w.pth")),
    "keras": Reader(_keras, "w.h5", lambda d: formats.read(d / "w.h5")),
    "head": Reader(_head, heads.FILE_NAME, _read_head),
    "features": Reader(_features, "f.npz", lambda d: deep_features.read(d / "f.npz")),
    "digits": Reader(_digits, "train-images-idx3-ubyte", lambda d: mnist.read("mnist", str(d))),
    "tar": Reader(_tar, "a.tar", _unpack),
    "table": _own_photos("labels.csv", _FLAGS),
    "table_of_labels": _own_photos("labels.tsv", _LABELS),
    "corrections": _correction("corrections.csv"),
    "corrected_table": _correction("labels.csv"),
    "log_of_changes": _correction("labels.csv.changes.json"),
    "stored_labels": Reader(_labels, "labels_train.npz", lambda d: changed_since(d, _OTHERS)),
    "coco": _own_photos("labels.json", _COCO),
    "yolo": _own_photos("labels/0.txt", _YOLO["labels/0.txt"], _YOLO | {"data.yaml": _NAMES}),
    "yolo_names": _own_photos("data.yaml", _NAMES, _YOLO),
}


def silenced() -> contextlib.AbstractContextManager[Any]:
    """Progress bars and warnings of the libraries go nowhere."""
    return contextlib.redirect_stderr(io.StringIO())
