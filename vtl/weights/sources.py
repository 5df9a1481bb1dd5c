"""The weights that vtl knows: where they are, their hash, variant and preprocessing."""

import contextlib
import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from vtl import files
from vtl.data import fetch
from vtl.decisions import Decisions
from vtl.errors import UserError
from vtl.models import HEAD
from vtl.preprocessing import CAFFE, TORCHVISION, Preprocessing
from vtl.untrusted import printable
from vtl.weights import convert, extracts, formats, frameworks, metadata, stated, suggest
from vtl.weights.formats import safetensors


@dataclasses.dataclass(frozen=True)
class Source:
    """The weights of one file, with the top-1 accuracy in percent that its publisher states.

    The accuracy is on ImageNet's validation set, except that of `demo`, which is on its own
    pictures (data/glyphs.py). None means that no figure for this preprocessing was found. A
    download without a URL is a file of this package.
    """

    download: fetch.Download
    depth: int
    variant: str
    preprocessing: Preprocessing
    top1: float | None
    licence: str


def _torchvision(depth: int, digits: str, top1: float, resize_size: int, **facts: Any) -> Source:
    """`digits` begin the file's sha256 and end its name. Source: torchvision.models.resnet."""
    name = f"resnet{depth}-{digits}.pth"
    url = f"https://download.pytorch.org/models/{name}"
    download = fetch.Download(name, (url,), **({"sha256": digits} | facts))
    preprocessing = dataclasses.replace(TORCHVISION, resize_size=resize_size)
    return Source(download, depth, "v1.5", preprocessing, top1, "BSD-3-Clause")


def _hugging_face(
    model: str,
    depth: int,
    preprocessing: Preprocessing,
    licence: str,
    top1: float | None = None,
    sha256: str | None = None,
) -> Source:
    """A safetensors file on the Hugging Face hub or its mirror."""
    urls = tuple(
        f"https://{host}/{model}/resolve/main/model.safetensors"
        for host in ("huggingface.co", "hf-mirror.com")
    )
    download = fetch.Download(
        f"{model.rpartition('/')[2]}.safetensors", urls, sha256=sha256, complaint=_complaint
    )
    return Source(download, depth, "v1.5", preprocessing, top1, licence)


def _complaint(path: Path) -> str:
    """Why a file can't be the weights: the check of a download whose hash nobody published."""
    try:
        formats.read(path)
    except UserError as error:
        return str(error)
    return ""


def _keras(url: str, filename: str, top1: float | None, **facts: Any) -> Source:
    download = fetch.Download(filename, (url,), **facts)
    return Source(download, 50, "v1", CAFFE, top1, "MIT")


_TIMM_A1 = dataclasses.replace(TORCHVISION, resize_size=236, interpolation="bicubic")
_MICROSOFT = dataclasses.replace(TORCHVISION, interpolation="bicubic")
_KERAS_FILE = "resnet50_weights_tf_dim_ordering_tf_kernels.h5"
_KERAS_FILE_NOTOP = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
_KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/resnet"

PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
"""The number of parameters by depth, with 1,000 classes."""

SOURCES = {
    "torchvision_v1": _torchvision(
        50,
        "0676ba61",
        76.130,
        256,
        size=102_530_333,
        sha256="0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    ),
    "torchvision_v1_18": _torchvision(18, "f37072fd", 69.758, 256),
    "torchvision_v1_34": _torchvision(34, "b627a593", 73.314, 256),
    "torchvision_v1_101": _torchvision(101, "63fe2227", 77.374, 256),
    "torchvision_v1_152": _torchvision(152, "394f9c45", 78.312, 256),
    "torchvision_v2": _torchvision(50, "11ad3fa6", 80.858, 232),
    "torchvision_v2_101": _torchvision(101, "cd907fc2", 81.886, 232),
    "torchvision_v2_152": _torchvision(152, "f82ba261", 82.284, 232),
    "timm_a1": _hugging_face(
        "timm/resnet50.a1_in1k",
        50,
        _TIMM_A1,
        "Apache-2.0",
        80.382,
        "773525d5821de224f8f30c33377b7a795d7863e08522698200d3217d3f2a41bb",
    ),
    **{
        f"timm_a1_{depth}": _hugging_face(
            f"timm/resnet{depth}.a1_in1k", depth, _TIMM_A1, "Apache-2.0"
        )
        for depth in (18, 34, 101, 152)
    },
    "timm_tv": _hugging_face("timm/resnet50.tv_in1k", 50, TORCHVISION, "BSD-3-Clause", 76.156),
    **{
        f"timm_tv_{depth}": _hugging_face(
            f"timm/resnet{depth}.tv_in1k", depth, TORCHVISION, "BSD-3-Clause"
        )
        for depth in (18, 34, 101, 152)
    },
    "microsoft": _hugging_face("microsoft/resnet-50", 50, _MICROSOFT, "Apache-2.0"),
    "keras_v1": _keras(
        f"{_KERAS_URL}/{_KERAS_FILE}",
        _KERAS_FILE,
        74.928,
        size=102_967_424,
        md5="2cb95161c43110f7111970584f804107",
    ),
    "keras_v1_notop": _keras(
        f"{_KERAS_URL}/{_KERAS_FILE_NOTOP}",
        _KERAS_FILE_NOTOP,
        None,
        size=94_765_736,
        md5="4d473c1dd8becc155b73f8504c6f6626",
    ),
    # An older file that was published under the same name; here it gets a name of its own.
    "keras_2017": _keras(
        "https://github.com/fchollet/deep-learning-models/releases/download/v0.2/" + _KERAS_FILE,
        "resnet50_2017_tf_kernels.h5",
        None,
        md5="a7b3fe01876f51b976af0dea6bc144eb",
    ),
    # A ResNet-50 of a quarter of the width, made by configs/pretrain_demo.py.
    "demo": Source(
        fetch.Download(
            "demo.safetensors",
            (),
            sha256="d7729d0f10779b39d120fa39c46498e2b1de1d24690c697d788e89ba743ba241",
        ),
        50,
        "v1.5",
        TORCHVISION.override(resize="squash", image_size=48),
        86.45,
        "Apache-2.0",
    ),
}


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a weights file holds: its tensors under our names (`convert.Tensors`), and its meta."""

    name: str
    path: Path
    sha256: str
    tensors: convert.Tensors
    architecture: convert.Architecture
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None
    """None if the file does not name them."""
    multi_label: bool
    """Whether a photo may have several classes: a sigmoid, not a softmax, gives probabilities."""
    format: str
    dtypes: tuple[str, ...]
    """As the file stores its numbers; here they are float32."""
    given_by: str = "the file itself"
    """What says how photos are prepared: that, a config beside or inside it, or what is known."""
    decisions: Decisions | None = None
    left_out: tuple[str, ...] = ()
    """What of the file was left out, as lines for people."""

    def record(self, preprocessing: Preprocessing) -> dict[str, Any]:
        """What `results.json` and the meta of features record about the weights."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "preprocessing": dataclasses.asdict(preprocessing),
        }


def load(name_or_path: str, *, must_work: bool = True) -> Weights:
    """Read weights by the name of a source, the path of a file, or a run's directory.

    Without `must_work` numbers that make every output NaN are let through, to be looked at.

    Raises:
        UserError: no such source or file, a failed download, a file that is no ResNet, or one
            that holds NaN or infinity below its head.
    """
    return of(name_or_path, formats.survey(locate(name_or_path)), must_work=must_work)


def of(
    name: str,
    contents: formats.Contents,
    *,
    must_work: bool = True,
    selection: extracts.Selection = extracts.WHOLE,
) -> Weights:
    """As `load`, of a file's contents, and of these only what `selection` names.

    Raises:
        UserError: as `load` and `extracts.take`; it ends on the command that would work, if one is
            known.
    """
    path = contents.path
    try:
        taken = extracts.take(contents, selection)
        file = taken.file
        tensors, implied = convert.canonical(file)
    except UserError as error:
        lines = frameworks.remedies(contents, error, selection)
        raise UserError("\n".join([str(error), *lines])) from error
    sha256 = _sha256(path)
    meta, given_by = metadata.read_network(file, implied), "the file itself"
    if meta is None:
        meta, given_by = _of_others(file, implied, sha256)
    if must_work:
        body = {k: v for k, v in tensors.items() if not k.startswith(f"params/{HEAD}/")}
        convert.check_finite(body, meta.architecture.epsilon, path)
    return Weights(
        name=name,
        path=path,
        sha256=sha256,
        tensors=tensors,
        architecture=meta.architecture,
        preprocessing=meta.preprocessing,
        given_by=given_by,
        classes=meta.classes,
        multi_label=meta.multi_label,
        format=file.format,
        dtypes=file.dtypes,
        decisions=meta.decisions,
        left_out=tuple(extracts.summary(taken, selection)),
    )


def _of_others(
    file: formats.WeightsFile, implied: convert.Architecture, sha256: str
) -> tuple[metadata.NetworkMeta, str]:
    """What a file of others is: as it states, else as is known of it, else as its layout does."""
    known, given_by = _preprocessing(file, sha256)
    preprocessing, statement = stated.prepared(stated.read(file, implied), known)
    if statement.preprocessing:
        given_by = statement.where
    if statement.unread:
        logging.warning(
            "%s: %s was not read (%s); assuming %s",
            file.path,
            statement.where,
            ", ".join(statement.unread),
            stated.in_words(preprocessing),
        )
    meta = metadata.NetworkMeta(
        architecture=dataclasses.replace(implied, **statement.architecture),
        preprocessing=preprocessing,
        classes=statement.classes,
        multi_label=bool(statement.multi_label),
    )
    return meta, given_by


def _sha256(path: Path) -> str:
    """The hash of the file or, if there are several, of their hashes in order."""
    hashes = [files.file_sha256(part) for part in formats.files_of(path)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def place(source: Source) -> Path:
    """Where its file is, or will be once it is fetched."""
    if not source.download.urls:
        return Path(__file__).parent / source.download.filename
    name = f"weights/{source.download.filename}"
    return files.cache_holding(name) / name


def size_bytes(source: Source) -> int:
    """The size of a source's file; if unknown, its parameters' size, which is within 1 %."""
    if not source.download.urls:
        return place(source).stat().st_size
    return source.download.size or 4 * PARAMETERS[source.depth]


def known_class_names(weights: Weights) -> tuple[str, ...] | None:
    """Names of the head's classes: those stated, ImageNet's if there are 1,000, else None."""
    if weights.classes:
        return weights.classes
    if weights.architecture.num_classes == 1000:
        return tuple(Path(__file__).with_name("imagenet_classes.txt").read_text().splitlines())
    return None


def class_names(weights: Weights) -> tuple[str, ...]:
    """As `known_class_names`, or numbers if the names are unknown."""
    numbers = tuple(f"class {i}" for i in range(weights.architecture.num_classes or 0))
    return known_class_names(weights) or numbers


def locate(name_or_path: str) -> Path:
    """The file of a source, which is fetched if missing, or of a path or a run's directory.

    Raises:
        UserError: there is no such source or file, or a download failed.
    """
    if name_or_path in SOURCES:
        source = SOURCES[name_or_path]
        if not source.download.urls:
            return _shipped(source)
        return fetch.fetch(source.download, place(source).parent)
    path = files.user_path(name_or_path)
    with contextlib.suppress(OSError):  # such as for a name that is too long
        if path.is_dir():
            places = [path / name for name in stated.HUB_FILES]
            path = next((p for p in places if p.exists()), path / "model.safetensors")
    if not os.path.exists(path):
        raise UserError(suggest.absent(name_or_path, path, _depths()))
    return path


def no_source(name: str) -> str:
    """What to say of a name that is no source's."""
    return "\n".join([f"{printable(name, 100)} is no source", *suggest.no_source(name, _depths())])


def _depths() -> dict[str, int]:
    return {name: source.depth for name, source in SOURCES.items()}


def _shipped(source: Source) -> Path:
    path = place(source)
    if not path.exists() or files.file_sha256(path) != source.download.sha256:
        raise UserError(f"{path} is not the file that vtl ships with: install vtl again")
    return path


def known_as(path: Path, sha256: str) -> str | None:
    """The source whose file this is, by its hash or, if that is unknown, by its name."""
    md5 = files.file_md5(path) if path.suffix in (".h5", ".hdf5") else ""
    for name, source in SOURCES.items():
        download = source.download
        if download.sha256 or download.md5:
            if sha256.startswith(download.sha256 or "-") or md5 == download.md5:
                return name
        elif path.name == download.filename:
            return name
    return None


def _preprocessing(file: formats.WeightsFile, sha256: str) -> tuple[Preprocessing, str]:
    """The preprocessing of a known file or, failing that, of its framework; and who says so."""
    if name := known_as(file.path, sha256):
        return SOURCES[name].preprocessing, f"the source {name}"
    if any("embedder." in tensor for tensor in file.tensors):
        return _MICROSOFT, "assumed, as microsoft/resnet-50"
    if file.format.startswith("keras"):
        return CAFFE, "assumed, as keras.applications"
    return TORCHVISION, "assumed, as torchvision"


def save(
    path: Path,
    variables: dict[str, Any],
    architecture: convert.Architecture,
    preprocessing: Preprocessing,
    classes: tuple[str, ...] | None,
    *,
    multi_label: bool,
    decisions: Decisions | None = None,
    dtype: str = "float32",
) -> None:
    """Write a network under torchvision's names, with all that `load` needs to read it back.

    Raises:
        OverflowError: a number does not fit into `dtype`.
    """
    meta = metadata.NetworkMeta(architecture, preprocessing, classes, multi_label, decisions)
    exact = convert.from_variables(variables)
    with np.errstate(over="ignore"):
        tensors = {name: np.asarray(tensor, dtype) for name, tensor in exact.items()}
    for name, tensor in tensors.items():
        if not np.array_equal(np.isfinite(tensor), np.isfinite(exact[name])):
            raise OverflowError(f"{name} does not fit into {dtype}")
    safetensors.write(
        path, tensors, {"format": "pt", metadata.NETWORK_KEY: metadata.network_text(meta)}
    )
