import json
import os
import re

import ml_dtypes
import numpy as np
import pytest

from tests.weights.files import KEPT, assert_same, normal, refusal, saved
from vtl.errors import UserError
from vtl.weights import formats
from vtl.weights.formats import safetensors

# What is no weight file


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><title>404</title>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"pickle".ljust(257, b"\0") + b"ustar\x0000", "is a tar"),
        (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:", "looks like an ONNX graph"),
        (b"\x08\x0e:", "looks like an ONNX graph"),
        (b"\x1f\x8b\x08\x00", "is compressed by gzip; unpack it first"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG picture"),
        (b"\x01\x02", r"begins with b'\x01\x02', which no known format does"),
    ],
)
def test_other_files_are_named_and_refused(tmp_path, content, what):
    message = refusal(saved(tmp_path, content, "resnet50.pth"))
    assert what in message
    assert "expected a safetensors, PyTorch .pth or Keras .h5 file" in message


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe and not a plain file" in refusal(tmp_path / "pipe")


def test_missing_file_and_directory(tmp_path):
    assert "there is no such file; expected" in refusal(tmp_path / "none.pth")
    assert "is a directory; expected" in refusal(tmp_path)


# safetensors


def test_safetensors_round_trip(tmp_path):
    path = tmp_path / "weights.pth"
    tensors = {dtype: (normal(2, 3) * 4).astype(dtype) for dtype in KEPT}
    tensors |= {
        "transposed": normal(3, 5).T,
        "reversed": normal(4)[::-1],
        "big_endian": normal(2).astype(">f4"),
        "empty": np.zeros((0, 3), np.float32),
        "num_batches_tracked": np.array(7),
    }
    safetensors.write(path, tensors, {"source": "test", "arch": "resnet50"})
    weights = formats.read(str(path))
    assert weights.path == path
    assert weights.format == "safetensors"
    assert weights.metadata == {"source": "test", "arch": "resnet50"}
    assert weights.dtypes == ("float32", "float64")
    tensors["big_endian"] = tensors["big_endian"].astype(np.float32)
    assert_same(dict(sorted(weights.tensors.items())), dict(sorted(tensors.items())))
    assert list(tmp_path.iterdir()) == [path]


def test_safetensors_library_files_and_half_precision(tmp_path):
    from safetensors.numpy import save_file

    values = normal(2, 3)
    halves = {"h": values.astype(np.float16), "b": values.astype(ml_dtypes.bfloat16)}
    save_file(halves, tmp_path / "w")
    weights = formats.read(tmp_path / "w")
    assert weights.metadata == {}
    assert weights.dtypes == ("bfloat16", "float16")
    assert_same(
        dict(sorted(weights.tensors.items())),
        {name: halves[name].astype(np.float32) for name in "bh"},
    )


def test_safetensors_bytes_depend_on_content_only(tmp_path):
    a, b = {"x": normal(2), "y": np.array(1)}, {"k": "v", "l": "w"}
    safetensors.write(tmp_path / "1", a, b)
    safetensors.write(tmp_path / "2", dict(reversed(a.items())), dict(reversed(b.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_safetensors_failed_write_leaves_the_old_file(tmp_path):
    path = saved(tmp_path, b"old")
    with pytest.raises(TypeError, match="w is of type complex64"):
        safetensors.write(path, {"w": np.zeros(2, np.complex64)}, {})
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def safetensors_bytes(entry, data=bytes(8)):
    header = json.dumps({"w": entry}).encode()
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize("cut", [9, 40, -1])
def test_safetensors_truncated(tmp_path, cut):
    safetensors.write(tmp_path / "w", {"w": normal(100)}, {"k": "v"})
    whole = (tmp_path / "w").read_bytes()
    message = refusal(saved(tmp_path, whole[:cut]))
    assert re.search(r"looks truncated: header promises \d+ bytes, file has \d+; fetch it", message)


@pytest.mark.parametrize(
    "data",
    [
        (1 << 62).to_bytes(8, "little") + b"{}",
        safetensors_bytes({"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 60]}),
        safetensors_bytes({"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 8]}),
        safetensors_bytes({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}),
        safetensors_bytes({"dtype": "PY", "shape": [2], "data_offsets": [0, 8]}),
        safetensors_bytes({"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}),
        safetensors_bytes([]),
        safetensors_bytes({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, bytes(9)),
    ],
)
def test_safetensors_tampered(tmp_path, data):
    refusal(saved(tmp_path, data))


def test_a_flipped_bit_of_our_own_files_is_noticed(tmp_path):
    """Of every byte: the numbers, their names, the metadata, the hash itself."""
    path = tmp_path / "w"
    safetensors.write(path, {"w": normal(4), "h": normal(2).astype(np.float16)}, {"k": "mean 0.5"})
    whole = path.read_bytes()
    before = formats.read(path)
    for at in range(len(whole)):
        for bit in (0, 3, 6):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                found = formats.read(path)
            except UserError:
                continue
            # The hash's own name: what it is of is as it was.
            assert set(found.metadata) > {"k"}
            assert found.metadata["k"] == before.metadata["k"]
            assert_same(found.tensors, before.tensors)
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    path.write_bytes(flipped)
    assert "is damaged: its content has another sha256 than when it was written" in refusal(path)


def test_a_file_without_a_hash_is_read(tmp_path):
    """As 0.1 and other programs write them."""
    from safetensors.numpy import save_file

    save_file({"w": normal(4)}, tmp_path / "w", metadata={"vtl": "{}"})
    assert formats.read(tmp_path / "w").metadata == {"vtl": "{}"}


def test_a_header_is_no_larger_than_a_network_needs(tmp_path):
    header = b"{" + b" " * (1 << 24) + b"}"
    path = saved(tmp_path, len(header).to_bytes(8, "little") + header)
    assert "has a header of 16,777,226 bytes, more than any network needs" in refusal(path)
    many = {f"{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_001)}
    header = json.dumps(many).encode()
    path = saved(tmp_path, len(header).to_bytes(8, "little") + header)
    assert "holds 20,001 tensors, and no network has more than 20,000" in refusal(path)


# Shards and their index


def write_shards(directory, weight_map=None):
    """Two shards of three tensors, and their index, whose path and tensors come back."""
    tensors = {"a": normal(2), "b": normal(3).astype(np.float16), "c": np.array(7)}
    safetensors.write(directory / "model-1.safetensors", {"c": tensors["c"]}, {})
    rest = {name: tensors[name] for name in "ab"}
    safetensors.write(directory / "model-2.safetensors", rest, {"format": "pt"})
    own = {"b": "model-2.safetensors", "c": "model-1.safetensors", "a": "model-2.safetensors"}
    index = {
        "metadata": {"total_size": 22},
        "weight_map": own if weight_map is None else weight_map,
    }
    return saved(directory, json.dumps(index, indent=2).encode(), "model.index.json"), tensors


def test_shards_are_read_by_their_index(tmp_path):
    path, tensors = write_shards(tmp_path)
    weights = formats.read(path)
    assert weights.path == path
    assert weights.format == "safetensors"
    assert weights.metadata == {"total_size": "22"}
    assert weights.dtypes == ("float16", "float32")
    tensors["b"] = tensors["b"].astype(np.float32)
    assert_same(dict(sorted(weights.tensors.items())), tensors)


def test_the_files_of_an_index_and_of_others(tmp_path):
    path, _ = write_shards(tmp_path)
    shards = [tmp_path / "model-1.safetensors", tmp_path / "model-2.safetensors"]
    assert formats.files_of(str(path)) == [path, *shards]
    assert formats.files_of(shards[1]) == [shards[1]]
    shards[0].unlink()
    with pytest.raises(UserError, match=r"index\.json: shard model-1\.safetensors is missing"):
        formats.files_of(path)
    assert "shard model-1.safetensors is missing; fetch it into the same" in refusal(path)


SHARD = "model-2.safetensors"


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": SHARD}, "shard model-2.safetensors: holds b, which the index doesn't list there"),
        (dict.fromkeys("abd", SHARD), "shard model-2.safetensors: lacks d, which the index lists"),
        (
            {"a": SHARD, "b": "model-1.safetensors", "c": "model-1.safetensors"},
            "shard model-1.safetensors: lacks b",
        ),
        ({"a": "other.bin"}, "shard other.bin: isn't a safetensors file"),
        ({"a": "model.index.json"}, "shard model.index.json: isn't a safetensors file"),
        ({}, "is JSON, but not an index of safetensors; expected"),
        ([SHARD], "is JSON, but not an index of safetensors; expected"),
        ({"a": "no such"}, "shard no such is missing"),
        ({"a": "directory"}, "shard directory is missing"),
        *(
            ({"a": name}, f"lists the shard {name!r}, which isn't a plain file name; refused")
            for name in (
                "../w",
                "/etc/passwd",
                "a/b",
                "a\\b",
                "c:w",
                "..",
                ".",
                "",
                3,
                None,
                [SHARD],
            )
        ),
    ],
)
def test_an_index_and_its_shards_agree(tmp_path, weight_map, message):
    path, _ = write_shards(tmp_path, weight_map)
    (tmp_path / "other.bin").write_bytes(b"\x80\x02")
    (tmp_path / "directory").mkdir()
    assert message in refusal(path)


def test_an_index_lists_a_tensor_once(tmp_path):
    write_shards(tmp_path)
    path = saved(tmp_path, b'{"weight_map": {"a": "model-2.safetensors", "a": "x"}}')
    assert "lists a 2 times" in refusal(path)


def test_a_shard_may_link_within_its_directory_only(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for directory in (inside, outside):
        directory.mkdir()
        path, _ = write_shards(directory)
    (inside / SHARD).rename(inside / "real")
    (inside / SHARD).symlink_to("real")
    assert sorted(formats.read(inside / path.name).tensors) == ["a", "b", "c"]
    (inside / SHARD).unlink()
    (inside / SHARD).symlink_to(outside / SHARD)
    message = refusal(inside / path.name)
    assert f"shard {SHARD} is a link to somewhere else; refused" in message


def test_a_broken_shard_is_named(tmp_path):
    path, _ = write_shards(tmp_path)
    whole = (tmp_path / SHARD).read_bytes()
    (tmp_path / SHARD).write_bytes(whole[:-1])
    assert "shard model-2.safetensors: looks truncated" in refusal(path)
    refusal(saved(tmp_path, path.read_bytes()[:-9]))
    refusal(saved(tmp_path, b"{}"))
    message = refusal(saved(tmp_path, b"{" + b" " * (1 << 24) + b"}"))
    assert "is JSON, larger than any index" in message
