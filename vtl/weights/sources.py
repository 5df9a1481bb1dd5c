"""The weights that exist: where they are, their hash, variant and preprocessing."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from vtl.data import fetch
from vtl.errors import UserError
from vtl.weights import convert, formats
from vtl.weights.preprocessing import CAFFE, TORCHVISION, Preprocessing


@dataclasses.dataclass(frozen=True)
class Source:
    """The weights of one file, with their top-1 accuracy in percent on held-out pictures.

    Those are ImageNet's, but for `demo`, which has its own (data/glyphs.py). A download without a
    URL is a file of this package.
    """

    download: fetch.Download
    variant: str
    preprocessing: Preprocessing
    top1: float
    licence: str


def _hugging_face(model: str, sha256: str | None) -> fetch.Download:
    url = f"https://huggingface.co/timm/{model}/resolve/main/model.safetensors"
    return fetch.Download(f"{model}.safetensors", (url,), sha256=sha256)


def _torchvision(filename: str, size: int | None, sha256: str | None) -> fetch.Download:
    return fetch.Download(
        filename, (f"https://download.pytorch.org/models/{filename}",), size=size, sha256=sha256
    )


_TIMM_A1 = dataclasses.replace(TORCHVISION, resize_size=236, interpolation="bicubic")
_KERAS_NAME = "resnet50_weights_tf_dim_ordering_tf_kernels.h5"

SOURCES = {
    "torchvision_v1": Source(
        _torchvision(
            "resnet50-0676ba61.pth",
            102_530_333,
            "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        ),
        "v1.5",
        TORCHVISION,
        76.130,
        "BSD-3-Clause",
    ),
    "torchvision_v2": Source(
        _torchvision("resnet50-11ad3fa6.pth", None, "11ad3fa6"),
        "v1.5",
        dataclasses.replace(TORCHVISION, resize_size=232),
        80.858,
        "BSD-3-Clause",
    ),
    "timm_a1": Source(
        _hugging_face(
            "resnet50.a1_in1k", "773525d5821de224f8f30c33377b7a795d7863e08522698200d3217d3f2a41bb"
        ),
        "v1.5",
        _TIMM_A1,
        80.382,
        "Apache-2.0",
    ),
    "timm_tv": Source(
        _hugging_face("resnet50.tv_in1k", None), "v1.5", TORCHVISION, 76.156, "BSD-3-Clause"
    ),
    "keras_v1": Source(
        fetch.Download(
            _KERAS_NAME,
            (f"https://storage.googleapis.com/tensorflow/keras-applications/resnet/{_KERAS_NAME}",),
            size=102_967_424,
            md5="2cb95161c43110f7111970584f804107",
        ),
        "v1",
        CAFFE,
        74.928,
        "MIT",
    ),
    # A ResNet-50 of quarter width, by configs/pretrain_demo.py.
    "demo": Source(
        fetch.Download(
            "demo.safetensors",
            (),
            sha256="d7729d0f10779b39d120fa39c46498e2b1de1d24690c697d788e89ba743ba241",
        ),
        "v1.5",
        TORCHVISION.override(resize="squash", image_size=48),
        86.45,
        "Apache-2.0",
    ),
}


@dataclasses.dataclass(frozen=True)
class Weights:
    """A weights file, read: its tensors under torchvision's names and what they ask for."""

    name: str
    path: Path
    sha256: str
    tensors: convert.Tensors
    architecture: convert.Architecture
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None

    def record(self, preprocessing: Preprocessing) -> dict:
        """What `results.json` and the meta of features say of the weights, as they were used."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "preprocessing": dataclasses.asdict(preprocessing),
        }


def load(name_or_path: str) -> Weights:
    """Read weights by the name of a source, the path of a file, or a run's directory.

    Raises:
        UserError: no such source or file, a failed download, or a file that is no ResNet.
    """
    path = _locate(name_or_path)
    file = formats.read(path)
    tensors, architecture = convert.canonical(file)
    sha256 = fetch.file_sha256(path)
    own = json.loads(file.metadata["vtl"]) if "vtl" in file.metadata else None
    if own:
        architecture = convert.Architecture(**own["architecture"])
        preprocessing = Preprocessing.from_dict(own["preprocessing"])
    else:
        preprocessing = _preprocessing(file, sha256)
    classes = tuple(own["classes"]) if own else None
    return Weights(name_or_path, path, sha256, tensors, architecture, preprocessing, classes)


def _locate(name_or_path: str) -> Path:
    if name_or_path in SOURCES:
        download = SOURCES[name_or_path].download
        if not download.urls:
            return _shipped(download)
        return fetch.fetch(download, fetch.cache_dir() / "weights")
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.exists():
        known = ", ".join(sorted(SOURCES))
        raise UserError(
            f"weights={name_or_path}: no such file or finished run, nor one of the sources {known}"
        )
    return path


def _shipped(download: fetch.Download) -> Path:
    path = Path(__file__).with_name(download.filename)
    if not path.exists() or fetch.file_sha256(path) != download.sha256:
        raise UserError(f"{path} is not what this version of vtl comes with: install vtl again")
    return path


def _preprocessing(file: formats.WeightsFile, sha256: str) -> Preprocessing:
    """Its source's where the name or hash is known, else what its layout's framework does."""
    for source in SOURCES.values():
        known = source.download.sha256
        if not source.download.urls:
            continue  # it says so itself
        if file.path.name == source.download.filename or (known and sha256.startswith(known)):
            return source.preprocessing
    return CAFFE if file.format == "keras_legacy_h5" else TORCHVISION


def save(
    path: Path,
    variables: dict,
    architecture: convert.Architecture,
    preprocessing: Preprocessing,
    classes: tuple[str, ...],
    dtype: str = "float32",
) -> None:
    """Write a network under torchvision's names, with all that `load` needs to read it back.

    Raises:
        OverflowError: a number is beyond `dtype`.
    """
    meta = {
        "architecture": dataclasses.asdict(architecture),
        "preprocessing": dataclasses.asdict(preprocessing),
        "classes": list(classes),
    }
    found = convert.from_variables(variables)
    with np.errstate(over="ignore"):
        tensors = {name: np.asarray(tensor, dtype) for name, tensor in found.items()}
    for name, tensor in tensors.items():
        if not np.array_equal(np.isfinite(tensor), np.isfinite(found[name])):
            raise OverflowError(f"{name} does not fit into {dtype}")
    formats.write_safetensors(path, tensors, {"format": "pt", "vtl": json.dumps(meta)})
