"""Weight files as flat dicts of numpy arrays, read without PyTorch, Keras or TensorFlow.

A weight file comes from the internet, so nothing in it is trusted: none of its code runs, no other
file is opened on its word, and no size is believed before it is held against the file's own. The
one exception: an index of safetensors names shards, which lie beside it.
"""

import re
from pathlib import Path

from vtl.errors import UserError
from vtl.untrusted import open_plain
from vtl.weights.formats import keras_h5, pytorch, safetensors
from vtl.weights.formats.contents import Contents, Entry, WeightsFile
from vtl.weights.formats.untrusted import EXPECTED, Tensors, errors_of, open_zip

__all__ = ["Contents", "Entry", "WeightsFile", "files_of", "read", "survey"]


def survey(path: str | Path) -> Contents:
    """Everything in a weight file, recognised by its content and never by its extension.

    A safetensors file may come in shards; `path` is then that of their index, a JSON file.
    Raises UserError for a file that isn't one of weights, is incomplete, or holds no dict of
    tensors.
    """
    path = Path(path)
    with errors_of(path):
        return _READERS[_recognise(path)](path)


def read(path: str | Path) -> WeightsFile:
    """Reads a weight file of one network.

    Tensors keep their names, except that Keras' ":0" and the dicts around PyTorch's
    ({"state_dict": ...}) are taken off, and that Keras 3's go by their layer's own name, if the
    file has it. float16 and bfloat16 come out as float32, every other type as it is; arrays may be
    read-only views.
    Raises UserError as `survey` does, for a file of several networks, and for values that are no
    tensors.
    """
    return survey(path).whole()


def files_of(path: str | Path) -> list[Path]:
    """The files that `read` reads: the one at `path` or, if it is an index, that and its shards.

    Raises UserError for a file that can't be opened and for an index that `read` refuses.
    """
    path = Path(path)
    with errors_of(path):
        return [path, *safetensors.shards_of(path)[0]] if _recognise(path) == "index" else [path]


_PACKED = {
    b"\x1f\x8b": "compressed by gzip",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
}
_OTHERS = {
    b"\xff\xd8\xff": "a JPEG photo",
    b"\x89PNG": "a PNG picture",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
    b"GGUF": "a GGUF file, of a language model",
}


def _recognise(path: Path) -> str:
    """The container that a file's first bytes speak of."""
    if not path.exists():
        raise UserError(f"there is no such file; {EXPECTED}")
    if path.is_dir():
        raise UserError(f"is a directory; {EXPECTED}")
    with open_plain(path) as file:
        head = file.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if safetensors.is_safetensors(head):
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80"):
        return "pickle"
    if text.startswith(b"{"):
        return "index"
    if not head:
        what = "is empty"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml")):
        what = "is a web page and not the file that was asked for"
    elif text.startswith(b"version https://git-lfs"):
        what = "is a Git LFS pointer to the real file; run git lfs pull"
    elif re.match(rb"\x08[\x01-\x20][\x12\x3a]", head):
        what = "looks like an ONNX graph; save the state_dict() of the network it was made from"
    elif packed := next((name for magic, name in _PACKED.items() if head.startswith(magic)), ""):
        what = f"is {packed}; unpack it first"
    elif picture := next((name for magic, name in _OTHERS.items() if head.startswith(magic)), ""):
        what = f"is {picture}"
    elif head[257:262] == b"ustar":
        what = "is a tar, which PyTorch wrote until 2017; torch.load and torch.save it once more"
    else:
        what = f"begins with {head[:8]!r}, which no known format does"
    raise UserError(f"{what}; {EXPECTED}")


def _of_one(path: Path, format: str, tensors: Tensors, metadata: dict[str, str]) -> Contents:
    """What a file of one dict of tensors holds."""
    entry = Entry(tuple(tensors), {}, lambda names: {name: tensors[name] for name in names})
    return Contents(path, format, {"": entry}, metadata)


def _read_keras(path: Path) -> Contents:
    return _of_one(path, *keras_h5.read(path))


def _read_zip(path: Path) -> Contents:
    with open_plain(path) as file:
        is_keras = keras_h5.ARCHIVED in open_zip(file).namelist()
    return _read_keras(path) if is_keras else pytorch.survey(path)


def _read_safetensors(path: Path) -> Contents:
    return _of_one(path, "safetensors", *safetensors.read(path))


def _read_index(path: Path) -> Contents:
    return _of_one(path, "safetensors", *safetensors.read_index(path))


_READERS = {
    "safetensors": _read_safetensors,
    "index": _read_index,
    "hdf5": _read_keras,
    "zip": _read_zip,
    "pickle": pytorch.survey,
}
