"""A file of weights that is published somewhere, and what is known of it."""

import dataclasses
from pathlib import Path

from vtl.data import fetch
from vtl.errors import UserError
from vtl.preprocessing import Preprocessing
from vtl.weights import formats


@dataclasses.dataclass(frozen=True)
class Source:
    """The weights of one file, with the top-1 accuracy in percent that its publisher states.

    The accuracy is on ImageNet's validation set, except that of `demo`, which is on its own
    pictures (data/glyphs.py). None means that no figure for this preprocessing was found. A
    download without a URL is a file of this package.
    """

    download: fetch.Download
    network: str
    """Its architecture's title, such as `ResNet-50`."""
    parameters: int
    preprocessing: Preprocessing
    top1: float | None
    licence: str

    @property
    def size_bytes(self) -> int:
        """Of its file; if that is unknown, of its parameters, which is within 1 %."""
        return self.download.size or 4 * self.parameters


def hugging_face(model: str, *, sha256: str | None = None) -> fetch.Download:
    """A model's safetensors file on the Hugging Face hub or its mirror."""
    urls = tuple(
        f"https://{host}/{model}/resolve/main/model.safetensors"
        for host in ("huggingface.co", "hf-mirror.com")
    )
    name = f"{model.rpartition('/')[2]}.safetensors"
    return fetch.Download(name, urls, sha256=sha256, complaint=_complaint)


def _complaint(path: Path) -> str:
    """Why a file can't be the weights: the check of a download whose hash nobody published."""
    try:
        formats.read(path)
    except UserError as error:
        return str(error)
    return ""
