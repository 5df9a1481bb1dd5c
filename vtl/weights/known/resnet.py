"""The ResNets that are published, by name."""

import dataclasses
from typing import Any

from vtl.data import fetch
from vtl.preprocessing import CAFFE, MICROSOFT, TORCHVISION, Preprocessing
from vtl.weights.known.source import Source, hugging_face

_PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
"""The number of parameters by depth, with 1,000 classes."""


def _source(
    download: fetch.Download,
    depth: int,
    preprocessing: Preprocessing,
    top1: float | None,
    licence: str,
) -> Source:
    network, parameters = f"ResNet-{depth}", _PARAMETERS[depth]
    return Source(download, network, parameters, preprocessing, top1, licence)


def _torchvision(depth: int, digits: str, top1: float, resize_size: int, **facts: Any) -> Source:
    """`digits` begin the file's sha256 and end its name. Source: torchvision.models.resnet."""
    name = f"resnet{depth}-{digits}.pth"
    url = f"https://download.pytorch.org/models/{name}"
    download = fetch.Download(name, (url,), **({"sha256": digits} | facts))
    preprocessing = dataclasses.replace(TORCHVISION, resize_size=resize_size)
    return _source(download, depth, preprocessing, top1, "BSD-3-Clause")


def _hugging_face(
    model: str,
    depth: int,
    preprocessing: Preprocessing,
    licence: str,
    top1: float | None = None,
    sha256: str | None = None,
) -> Source:
    return _source(hugging_face(model, sha256=sha256), depth, preprocessing, top1, licence)


def _keras(url: str, filename: str, top1: float | None, **facts: Any) -> Source:
    download = fetch.Download(filename, (url,), **facts)
    return _source(download, 50, CAFFE, top1, "MIT")


_TIMM_A1 = dataclasses.replace(TORCHVISION, resize_size=236, interpolation="bicubic")
_KERAS_FILE = "resnet50_weights_tf_dim_ordering_tf_kernels.h5"
_KERAS_FILE_NOTOP = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
_KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/resnet"

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
    "microsoft": _hugging_face("microsoft/resnet-50", 50, MICROSOFT, "Apache-2.0"),
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
        "ResNet-50 of width 0.25",
        1_583_536,
        TORCHVISION.override(resize="squash", image_size=48),
        86.45,
        "Apache-2.0",
    ),
}
