"""safetensors files, whole or in shards: read on no one's word, and written the same every time."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors import safe_open

from vtl.errors import UserError
from vtl.files import whole_file
from vtl.weights.formats.untrusted import EXPECTED, Tensors, check_present, errors_of

_MAX_INDEX_BYTES = 1 << 24  # a ResNet-152's takes some 100 kB


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with these bytes is one: its header, JSON, follows its length."""
    return head[8:9] == b"{"


def read(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors as they are stored, and the metadata."""
    present = path.stat().st_size
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        check_present("header", start, present)
        header = json.loads(file.read(start - 8))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    check_present("header", start + max(ends, default=0), present)
    with safe_open(path, framework="numpy") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return tensors, opened.metadata() or {}


def read_index(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors of all shards, which are those that the index lists, and the index's metadata."""
    tensors: Tensors = {}
    shards, metadata = shards_of(path)
    for shard, listed in shards.items():
        with errors_of(f"shard {shard.name}"):
            with shard.open("rb") as file:
                is_right = is_safetensors(file.read(9))
            if not is_right:
                raise UserError("isn't a safetensors file")
            found, _ = read(shard)
            if missing := listed - found.keys():
                raise UserError(f"lacks {min(missing)}, which the index lists")
            if unlisted := found.keys() - listed:
                raise UserError(f"holds {min(unlisted)}, which the index doesn't list there")
        tensors |= found
    return tensors, metadata


def shards_of(path: Path) -> tuple[dict[Path, set[str]], dict[str, str]]:
    """An index's shards by name, with the tensors that it lists for each, and its metadata."""
    if path.stat().st_size > _MAX_INDEX_BYTES:
        raise UserError(f"is JSON, larger than any index of safetensors; {EXPECTED}")
    index = json.loads(path.read_bytes(), object_pairs_hook=_once)
    weight_map, metadata = index.get("weight_map"), index.get("metadata") or {}
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"is JSON, but not an index of safetensors; {EXPECTED}")
    shards: dict[Path, set[str]] = {}
    for tensor, name in sorted(weight_map.items(), key=lambda item: (str(item[1]), item[0])):
        if not isinstance(name, str) or not re.fullmatch(r"(?!\.)[^/\\:\0]+", name):
            raise UserError(f"lists the shard {name!r}, which isn't a plain file name; refused")
        shards.setdefault(path.with_name(name), set()).add(tensor)
    for shard in shards:
        if shard.resolve().parent != path.parent.resolve():
            raise UserError(f"shard {shard.name} is a link to somewhere else; refused")
        if not shard.is_file():
            raise UserError(f"shard {shard.name} is missing; fetch it into the same directory")
    return shards, {name: str(value) for name, value in metadata.items()}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise UserError(f"lists {name} {count} times")
    return dict(pairs)


def write(path: str | Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    """Writes a safetensors file under a temporary name, then renames it.

    The same tensors and metadata give the same bytes, which the library's writer doesn't promise;
    that one also disregards strides.
    """
    path = Path(path)
    # Wide types first, so that every tensor is aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in ordered:
        dtype = tensor.dtype
        if dtype.kind not in "fiub":
            raise TypeError(f"{name} is of type {dtype}; safetensors take numpy's numbers")
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}",
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            file.write(tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes())
