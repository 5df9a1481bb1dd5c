import io
import json
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict

import h5py
import ml_dtypes
import numpy as np
import pytest

from vtl.errors import UserError
from vtl.weights import formats

KEPT = ["float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"]


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def refusal(path):
    """The message that reading `path` is refused with: one line of printable text with the path."""
    with pytest.raises(UserError) as caught:
        formats.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    return message


def saved(tmp_path, data, name="weights.bin"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert actual[name].shape == tensor.shape, name
        np.testing.assert_array_equal(actual[name], tensor, err_msg=name)


# What is no weight file


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><title>404</title>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"pickle".ljust(257, b"\0") + b"ustar\x0000", "is a tar"),
        (b"\x1f\x8b\x08\x00", r"begins with b'\x1f\x8b\x08\x00'"),
    ],
)
def test_other_files_are_named_and_refused(tmp_path, content, what):
    message = refusal(saved(tmp_path, content, "resnet50.pth"))
    assert what in message
    assert "expected a safetensors, PyTorch .pth or Keras legacy .h5 file" in message


def test_missing_file_and_directory(tmp_path):
    assert "there is no such file; expected" in refusal(tmp_path / "none.pth")
    assert "is a directory; expected" in refusal(tmp_path)


def test_reading_imports_no_other_framework(tmp_path):
    path = saved(tmp_path, zip_layout(state_dict(w=tensor("0", 2, (2,), (1,))), {"0": bytes(8)}))
    code = (
        "import sys; from vtl.weights import formats; formats.read(sys.argv[1]);"
        "print([m for m in ('torch', 'keras', 'tensorflow', 'jax') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


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
    formats.write_safetensors(path, tensors, {"source": "test", "arch": "resnet50"})
    weights = formats.read(str(path))
    assert weights.path == path
    assert weights.format == "safetensors"
    assert weights.metadata == {"source": "test", "arch": "resnet50"}
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
    assert_same(
        dict(sorted(weights.tensors.items())),
        {name: halves[name].astype(np.float32) for name in "bh"},
    )


def test_safetensors_bytes_depend_on_content_only(tmp_path):
    a, b = {"x": normal(2), "y": np.array(1)}, {"k": "v", "l": "w"}
    formats.write_safetensors(tmp_path / "1", a, b)
    formats.write_safetensors(tmp_path / "2", dict(reversed(a.items())), dict(reversed(b.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_safetensors_failed_write_leaves_the_old_file(tmp_path):
    path = saved(tmp_path, b"old")
    with pytest.raises(TypeError, match="w is of type complex64"):
        formats.write_safetensors(path, {"w": np.zeros(2, np.complex64)}, {})
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def safetensors_bytes(entry, data=bytes(8)):
    header = json.dumps({"w": entry}).encode()
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize("cut", [9, 40, -1])
def test_safetensors_truncated(tmp_path, cut):
    formats.write_safetensors(tmp_path / "w", {"w": normal(100)}, {"k": "v"})
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


# PyTorch, by hand: what the reader meets in hostile files, and where torch isn't installed


def value(plain):
    return pickle.dumps(plain, protocol=2)[2:-1]


def named(name):
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def call(name, *arguments):
    return named(name) + b"(" + b"".join(arguments) + b"tR"


def storage(key, numel, kind="Float"):
    return (b"(" + value("storage") + named(f"torch.{kind}Storage") + value(key) + value("cpu")) + (
        value(numel) + b"tQ"
    )


def tensor(key, numel, shape, stride, offset=0, kind="Float"):
    described = [storage(key, numel, kind), value(offset), value(shape), value(stride)]
    hooks = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", *described, value(False), hooks)


def state_dict(**tensors):
    items = b"".join(value(name.replace("__", ".")) + code for name, code in tensors.items())
    return call("collections.OrderedDict") + b"(" + items + b"u"


def zip_layout(code, storages=None, root="archive/", compression=zipfile.ZIP_STORED, extra=None):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr(f"{root}data.pkl", b"\x80\x02" + code + b".")
        for key, data in (storages or {}).items():
            archive.writestr(f"{root}data/{key}", data)
        for name, data in (extra or {}).items():
            archive.writestr(root + name, data)
    return buffer.getvalue()


def legacy_layout(code, storages=None, little_endian=True, counts=None):
    """`storages` holds float32 data by key; `counts` replaces the element counts before them."""
    storages = storages or {}
    parts = [
        pickle.dumps(formats._MAGIC, protocol=2),
        pickle.dumps(1001, protocol=2),
        pickle.dumps({"little_endian": little_endian}, protocol=2),
        b"\x80\x02" + code + b".",
        pickle.dumps(list(storages), protocol=2),
    ]
    for key, data in storages.items():
        parts += [struct.pack("<q", (counts or {}).get(key, len(data) // 4)), data]
    return b"".join(parts)


LAYOUTS = pytest.mark.parametrize("layout", [zip_layout, legacy_layout])


@LAYOUTS
def test_torch_strides_offsets_and_shared_storage(tmp_path, layout):
    data = normal(12)
    code = state_dict(
        whole=tensor("7", 12, (3, 4), (4, 1)),
        transposed=tensor("7", 12, (4, 3), (1, 4)),
        sliced=tensor("7", 12, (2, 2), (4, 2), offset=5),
        scalar=tensor("7", 12, (), (), offset=11),
        empty=tensor("7", 12, (0, 3), (3, 1)),
        other=tensor("8", 1, (1,), (1,)),
    )
    # state_dict() ends on BUILD, which sets `_metadata`.
    code += value({"_metadata": {"": {"version": 1}}}) + b"b"
    weights = formats.read(saved(tmp_path, layout(code, {"7": data.tobytes(), "8": b"\0\0\x80?"})))
    assert weights.format == "torch"
    assert weights.metadata == {}
    grid = data.reshape(3, 4)
    expected = {
        "whole": grid,
        "transposed": grid.T,
        "sliced": grid[1:, 1::2],
        "scalar": data[11].reshape(()),
        "empty": np.zeros((0, 3), np.float32),
        "other": np.ones(1, np.float32),
    }
    assert_same(weights.tensors, expected)


@LAYOUTS
def test_torch_first_rebuild_function_and_parameters(tmp_path, layout):
    described = [storage("0", 2), value(0), value((2,)), value((1,))]
    old = call("torch._utils._rebuild_tensor", *described)
    parameter = call("torch._utils._rebuild_parameter", old, value(True), value({}))
    data = normal(2)
    path = saved(tmp_path, layout(state_dict(a=old, b=parameter), {"0": data.tobytes()}))
    assert_same(formats.read(path).tensors, {"a": data, "b": data})


W = tensor("0", 1, (1,), (1,))


@LAYOUTS
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "weights"])
def test_torch_checkpoint_is_unwrapped(tmp_path, layout, wrapper):
    inner = state_dict(module__conv1__weight=W, module__fc__bias=W)
    optimizer = b"}" + value("state") + b"}" + value(0) + state_dict(momentum=W) + b"ss"
    code = (
        b"}(" + value("epoch") + value(90) + value("best_acc1") + W + value(wrapper) + inner
    ) + (value("optimizer") + optimizer + b"u")
    tensors = formats.read(saved(tmp_path, layout(code, {"0": bytes(4)}))).tensors
    assert list(tensors) == ["conv1.weight", "fc.bias"]


def test_torch_prefix_stays_unless_all_have_it(tmp_path):
    code = state_dict(module__conv1__weight=W, fc__bias=W)
    tensors = formats.read(saved(tmp_path, zip_layout(code, {"0": bytes(4)}))).tensors
    assert list(tensors) == ["module.conv1.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            b"}(" + value("model") + state_dict(w=W) + value("ema") + state_dict(w=W) + b"u",
            "holds several dicts of tensors, ['model', 'ema']; save the one you want",
        ),
        (W, "holds no dict of tensors; save model.state_dict()"),
        (value({"epoch": 3}), "holds no dict of tensors; save model.state_dict()"),
        (state_dict(w=W, epoch=value(3)), "entry 'epoch' is of type int, not a tensor"),
        (b"}" + value(3) + W + b"s", "entry 3 is of type _Tensor"),
    ],
)
def test_torch_other_contents(tmp_path, code, message):
    assert message in refusal(saved(tmp_path, zip_layout(code, {"0": bytes(4)})))


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@LAYOUTS
@pytest.mark.parametrize(
    ("code", "asked"),
    [
        (call("os.system", value("touch owned")), "os.system"),
        (call("posix.system", value("touch owned")), "posix.system"),
        (call("builtins.eval", value("open('owned', 'w')")), "builtins.eval"),
        (call("builtins.getattr", W, value("__class__")), "builtins.getattr"),
        (call("torch._utils.os.system", value("touch owned")), "torch._utils.os.system"),
        (call("torch.load", value("other.pth")), "torch.load"),
        (call("torch.storage._load_from_bytes", value("")), "torch.storage._load_from_bytes"),
        (call("torch._utils._rebuild_tensor_v3"), "torch._utils._rebuild_tensor_v3"),
        (call("torch.ComplexFloatStorage"), "torch.ComplexFloatStorage"),
        (call("collections.OrderedDict.__class__"), "collections.OrderedDict.__class__"),
        (call("vtl.weights.formats._Tensor"), "vtl.weights.formats._Tensor"),
        (b"(" + value("touch owned") + b"ios\nsystem\n", "os.system"),
        (pickle.dumps(Runs(eval, "open('owned', 'w')"), protocol=4)[2:-1], "builtins.eval"),
        (pickle.dumps(np.float64(1), protocol=2)[2:-1], "numpy"),
        (pickle.dumps(np.ones(3), protocol=2)[2:-1], "numpy"),
        (b"\x8c\x08builtins\x8c\x0eev\x1b[31m\nal\x00\xe2\x82\xac\x93", "builtins.ev [31m al "),
    ],
)
def test_torch_pickle_may_ask_for_nothing_else(tmp_path, monkeypatch, layout, code, asked):
    monkeypatch.chdir(tmp_path)
    message = refusal(saved(tmp_path, layout(code)))
    assert f"asks for {asked}" in message
    assert message.endswith("; a weights file may hold tensors and nothing else; refused")
    assert not (tmp_path / "owned").exists()


def test_torch_refusal_in_full(tmp_path):
    path = saved(tmp_path, zip_layout(call("builtins.eval", value("1"))))
    assert refusal(path) == (
        f"{path}: asks for builtins.eval; a weights file may hold tensors and nothing else; refused"
    )


@LAYOUTS
@pytest.mark.parametrize(
    "code",
    [
        call("torch._utils._rebuild_tensor_v2"),
        call("torch._utils._rebuild_tensor_v2", *[value(None)] * 6),
        call("torch._utils._rebuild_tensor_v2", *[value(None)] * 7),
        call("torch._utils._rebuild_parameter", value(1)),
        call("torch.FloatStorage", value(5)),
        call("collections.OrderedDict", value(3)),
        named("collections.OrderedDict") + b")\x81",
        state_dict(w=named("torch._utils._rebuild_tensor_v2") + storage("0", 1) + b"R"),
        state_dict(w=call("torch._utils._rebuild_tensor", *[value((1,))] * 4)),
        state_dict(w=storage("0", 1)),
        # BUILD with a dict and with slots, on a function, a tensor and a storage
        named("torch._utils._rebuild_tensor_v2") + b"N" + value({"__code__": 1}) + b"\x86b",
        named("torch._utils._rebuild_tensor_v2") + value({"__globals__": {}}) + b"b",
        W + value({"storage": 1}) + b"b",
        W + b"N" + value({"offset": 1 << 40}) + b"\x86b",
        storage("0", 1) + b"N" + value({"numel": 1 << 40}) + b"\x86b",
        # opcodes that edit what they are given
        W + value(1) + b"a",
        W + value("shape") + value((1 << 40,)) + b"s",
        storage("0", 1) + value(0) + value(1) + b"s",
        # broken streams
        b"",
        b"0",
        b"h\x05",
        b"X\xff\xff\xff\x7fabc",
        b"\x8a\xff",
        b"\x82\x01",
        value({"a": 1}) + b"Q",
        value(("storage", "FloatStorage", "0", "cpu", -1)) + b"Q",
        value(("storage", "FloatStorage", "0", "cpu", 1, ("view", 0, 1))) + b"Q",
        value(("module", "FloatStorage", "source")) + b"Q",
        b"Pmodule\n",
    ],
)
def test_torch_misused_pickles_are_refused(tmp_path, layout, code):
    refusal(saved(tmp_path, layout(code, {"0": bytes(4)})))
    # and nothing of it stays behind
    good = saved(tmp_path, layout(state_dict(w=W), {"0": b"\0\0\x80?"}), "good")
    assert formats.read(good).tensors["w"].tolist() == [1.0]


def test_torch_build_on_the_state_dict_shadows_nothing(tmp_path):
    code = state_dict(w=W) + b"N" + value({"items": 1, "values": 2}) + b"\x86b"
    path = saved(tmp_path, zip_layout(code, {"0": b"\0\0\x80?"}))
    assert formats.read(path).tensors["w"].tolist() == [1.0]


@pytest.mark.parametrize("code", [b"Nr\xff\xff\xff\xff", b"Np99999999999\n"])
def test_torch_memo_bomb(tmp_path, code):
    assert "more memory than it needs" in refusal(saved(tmp_path, zip_layout(code)))


@pytest.mark.parametrize(
    "code",
    [
        b"}" * (1 << 21),
        # a key so deeply nested that hashing it would end the process
        b"})" + b"\x85" * 1_000_000 + b"Ns",
    ],
    ids=["long", "deep"],
)
def test_torch_pickle_size_is_bounded(tmp_path, code):
    assert "larger than any list of tensors" in refusal(saved(tmp_path, legacy_layout(code)))


@LAYOUTS
@pytest.mark.parametrize(
    ("shape", "stride", "offset", "message"),
    [
        ((5,), (1,), 0, "reaches beyond its storage of 4 numbers"),
        ((2,), (1,), 3, "reaches beyond its storage of 4 numbers"),
        ((2, 2), (3, 1), 0, "reaches beyond its storage of 4 numbers"),
        ((1,), (1,), 1 << 62, "reaches beyond its storage of 4 numbers"),
        ((1 << 40,), (0,), 0, "reaches beyond its storage of 4 numbers"),
        ((1 << 62, 1 << 62), (0, 0), 0, "reaches beyond its storage of 4 numbers"),
        ((2,), (-1,), 1, "has a negative offset, shape or stride"),
        ((2,), (1,), -1, "has a negative offset, shape or stride"),
        ((-1,), (1,), 0, "has a negative offset, shape or stride"),
        ((1.0,), (1,), 0, "has a negative offset, shape or stride"),
        ((2, 2), (1,), 0, "damaged"),
        ([2], [1], 0, "described in a way PyTorch doesn't"),
        ((0, 1 << 62), (1, 1), 0, "damaged"),
        ((1,) * 100, (1,) * 100, 0, "damaged"),
    ],
)
def test_torch_tensor_stays_in_its_storage(tmp_path, layout, shape, stride, offset, message):
    code = state_dict(w=tensor("0", 4, shape, stride, offset))
    assert message in refusal(saved(tmp_path, layout(code, {"0": bytes(16)})))


@pytest.mark.parametrize("numel", [3, 5, 1 << 60])
def test_torch_tampered_storage_size(tmp_path, numel):
    code = state_dict(w=tensor("0", numel, (1,), (1,)))
    message = refusal(saved(tmp_path, zip_layout(code, {"0": bytes(16)})))
    assert f"has 16 bytes, expected {4 * numel}" in message
    message = refusal(saved(tmp_path, legacy_layout(code, {"0": bytes(16)})))
    assert ("has 4 elements" if numel == 3 else "looks truncated") in message


def test_torch_storage_with_two_types(tmp_path):
    code = state_dict(a=tensor("0", 1, (1,), (1,)), b=tensor("0", 1, (1,), (1,), kind="Int"))
    assert "describes a storage" in refusal(saved(tmp_path, zip_layout(code, {"0": bytes(4)})))


def test_torch_legacy_tampered_count_and_keys(tmp_path):
    code = state_dict(w=W)
    path = saved(tmp_path, legacy_layout(code, {"0": bytes(4)}, counts={"0": 1 << 60}))
    assert "elements" in refusal(path)
    refusal(saved(tmp_path, legacy_layout(code, {})))
    refusal(saved(tmp_path, legacy_layout(code, {"0": bytes(4), "1": bytes(4)})))


@LAYOUTS
def test_torch_truncated_anywhere(tmp_path, layout):
    whole = layout(state_dict(w=tensor("0", 4, (4,), (1,))), {"0": bytes(16)})
    for size in range(1, len(whole)):
        refusal(saved(tmp_path, whole[:size]))
    path = saved(tmp_path, whole[:-3])
    assert "looks truncated" in refusal(path)


@LAYOUTS
def test_torch_flipped_bytes_never_escape(tmp_path, layout):
    whole = layout(state_dict(w=tensor("0", 4, (4,), (1,))), {"0": bytes(16)})
    generator = np.random.default_rng(0)
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= int(generator.integers(1, 256))
        path = saved(tmp_path, broken)
        try:
            formats.read(path)
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and str(error).isprintable()  # noqa: PT017, PT018


def test_torch_zip_bomb_and_other_zips(tmp_path):
    code, data = state_dict(w=W), {"0": bytes(4)}
    bomb = zip_layout(code, {"0": bytes(1 << 20)}, compression=zipfile.ZIP_DEFLATED)
    assert "is a compressed zip" in refusal(saved(tmp_path, bomb))
    # the same bytes, called stored: the directory then promises more than the file has
    stored = bytearray(bomb)
    for signature, field in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        for at in (m.start() for m in re.finditer(re.escape(signature), bomb)):
            stored[at + field : at + field + 2] = b"\0\0"
    assert "zip directory promises" in refusal(saved(tmp_path, bytes(stored)))
    other = io.BytesIO()
    np.savez(other, w=np.ones(3))
    assert "is a zip, but not one of torch.save; expected" in refusal(
        saved(tmp_path, other.getvalue())
    )
    keras = zip_layout(code, data, root="", extra={"model.weights.h5": b""})
    assert "is a .keras archive of Keras 3" in refusal(saved(tmp_path, keras))
    refusal(saved(tmp_path, zip_layout(code, {})))


def test_torch_big_endian_is_refused(tmp_path):
    code, data = state_dict(w=W), {"0": bytes(4)}
    big = zip_layout(code, data, extra={"byteorder": b"big"})
    assert "big-endian" in refusal(saved(tmp_path, big))
    assert "big-endian" in refusal(saved(tmp_path, legacy_layout(code, data, little_endian=False)))
    little = zip_layout(code, data, root="resnet/", extra={"byteorder": b"little"})
    assert formats.read(saved(tmp_path, little)).tensors["w"].tolist() == [0.0]


def test_plain_pickle(tmp_path):
    message = refusal(saved(tmp_path, pickle.dumps({"w": [1.0]})))
    assert "is a pickle, but not one of torch.save" in message


# PyTorch, held against torch.load

BOTH = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])


def assert_as_torch(torch, path, expected=None):
    loaded = expected or torch.load(path, weights_only=True)
    halves = (torch.float16, torch.bfloat16)
    expected = {
        name: (t.float() if t.dtype in halves else t).detach().numpy() for name, t in loaded.items()
    }
    assert_same(formats.read(path).tensors, expected)


@BOTH
def test_torch_every_type(tmp_path, new):
    torch = pytest.importorskip("torch")
    values = torch.from_numpy(normal(2, 3, 4) * 4)
    names = [*KEPT, "float16", "bfloat16"]
    torch.save(
        {name: values.to(getattr(torch, name)) for name in names},
        tmp_path / "w.h5",
        _use_new_zipfile_serialization=new,
    )
    assert_as_torch(torch, tmp_path / "w.h5")


@BOTH
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_torch_views_parameters_and_shared_storage(tmp_path, new, protocol):
    torch = pytest.importorskip("torch")
    base = torch.from_numpy(normal(4, 6))
    tensors = OrderedDict(
        base=base,
        transposed=base.T,
        sliced=base[1:, ::2],
        offset=base[3, 4:],
        permuted=base.reshape(2, 2, 6).permute(2, 0, 1),
        half=base.half().T,
        scalar=torch.tensor(3),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(base),
        again=base,
    )
    path = tmp_path / "w"
    torch.save(tensors, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    assert_as_torch(torch, path, tensors)


@BOTH
def test_torch_real_state_dict_and_checkpoint(tmp_path, new):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    path = tmp_path / "w"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=new)
    assert_as_torch(torch, path)
    assert "1.num_batches_tracked" in formats.read(path).tensors
    checkpoint = {
        "epoch": 3,
        "best_acc1": torch.tensor(76.1),
        "state_dict": torch.nn.DataParallel(model).state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(checkpoint, path, _use_new_zipfile_serialization=new)
    assert_as_torch(torch, path, model.state_dict())


@BOTH
def test_torch_whole_model_and_expanded_tensor_are_refused(tmp_path, new):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w"
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=new)
    assert "asks for torch.nn.modules.linear.Linear" in refusal(path)
    torch.save({"w": torch.ones(1).expand(9)}, path, _use_new_zipfile_serialization=new)
    assert "reaches beyond its storage" in refusal(path)


# Keras


def keras_file(path, weights, under="", pieces=1):
    """Writes {layer: {weight name: array}} as Keras does; `pieces` as for a long list of names."""
    with h5py.File(path, "w") as file:
        root = file.require_group(under) if under else file

        def name(group, attribute, names):
            split = np.array_split(np.array([n.encode() for n in names]), pieces)
            for piece, part in enumerate(split):
                group.attrs[attribute if pieces == 1 else f"{attribute}{piece}"] = part

        name(root, "layer_names", list(weights))
        for layer, arrays in weights.items():
            group = root.create_group(layer)
            name(group, "weight_names", list(arrays))
            for weight, array in arrays.items():
                group[weight] = array


KERNEL = {"conv1_conv": {"conv1_conv/kernel:0": normal(7, 7, 3, 8)}}


@pytest.mark.parametrize("under", ["", "model_weights"])
@pytest.mark.parametrize("pieces", [1, 2])
def test_keras_layout(tmp_path, under, pieces):
    gamma, half = normal(8), normal(8).astype(np.float16)
    weights = {
        "input_1": {},
        **KERNEL,
        "conv1_bn": {"conv1_bn/gamma:0": gamma, "conv1_bn/moving_mean:0": half},
        "probs": {"probs/kernel": gamma.astype(">f4"), "step": np.array(5)},
    }
    keras_file(tmp_path / "w.pth", weights, under, pieces)
    read = formats.read(tmp_path / "w.pth")
    assert read.format == "keras_legacy_h5"
    assert read.metadata == {}
    expected = {
        "conv1_conv/kernel": KERNEL["conv1_conv"]["conv1_conv/kernel:0"],
        "conv1_bn/gamma": gamma,
        "conv1_bn/moving_mean": half.astype(np.float32),
        "probs/kernel": gamma,
        "step": np.array(5),
    }
    assert_same(read.tensors, expected)


def test_keras_links_lead_nowhere(tmp_path):
    secret, path = tmp_path / "secret.h5", tmp_path / "w.h5"
    keras_file(secret, KERNEL)
    for link in (h5py.ExternalLink(secret, "/conv1_conv"), h5py.SoftLink("/elsewhere")):
        keras_file(path, KERNEL)
        with h5py.File(path, "a") as file:
            del file["conv1_conv"]
            file["conv1_conv"] = link
        assert "conv1_conv is a link to somewhere else; refused" in refusal(path)
    with h5py.File(path, "w") as file:
        file["model_weights"] = h5py.ExternalLink(secret, "/")
    assert "model_weights is a link to somewhere else; refused" in refusal(path)


def external(group, name, path):
    group.create_dataset(name, (4,), "f4", external=[(str(path), 0, 16)])


def virtual(group, name, path):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(path, "data", (4,))
    group.create_virtual_dataset(name, layout)


def compressed(group, name, path):
    group.create_dataset(name, (1 << 20,), "f4", compression="gzip")


def strings(group, name, path):
    group.create_dataset(name, data=["a", "b"])


def records(group, name, path):
    group.create_dataset(name, (2,), np.dtype([("a", "f4")]))


def deeper(group, name, path):
    group.create_group(name)


@pytest.mark.parametrize("write", [external, virtual, compressed, strings, records, deeper])
def test_keras_weights_are_plain_arrays(tmp_path, write):
    path = tmp_path / "w.h5"
    keras_file(path, KERNEL)
    other = saved(tmp_path, bytes(16), "other.bin")
    with h5py.File(path, "a") as file:
        del file["conv1_conv/conv1_conv/kernel:0"]
        write(file["conv1_conv"], "conv1_conv/kernel:0", other)
    assert "conv1_conv/kernel:0 isn't a plain array of numbers" in refusal(path)


def test_keras_sizes_are_held_against_the_file(tmp_path):
    path = tmp_path / "w.h5"
    keras_file(path, KERNEL)
    with h5py.File(path, "a") as file:
        del file["conv1_conv/conv1_conv/kernel:0"]
        # never written, so it takes no room until it is read
        file.create_dataset("conv1_conv/conv1_conv/kernel:0", (1 << 40,), "f4")
    assert "list of weights promises 4398046511104 bytes" in refusal(path)
    # one array under many names
    keras_file(path, KERNEL)
    with h5py.File(path, "a") as file:
        group = file["conv1_conv"]
        for name in map(str, range(9)):
            group[name] = group["conv1_conv/kernel:0"]
        group.attrs["weight_names"] = [b"%d" % n for n in range(9)]
    assert "list of weights promises" in refusal(path)


def test_keras_incomplete(tmp_path):
    path = tmp_path / "w.h5"
    keras_file(path, KERNEL)
    with h5py.File(path, "a") as file:
        del file["conv1_conv/conv1_conv/kernel:0"]
    assert "lists conv1_conv/kernel:0 but doesn't hold it" in refusal(path)
    keras_file(path, {"a": {"w": normal(2)}, "b": {"w": normal(2)}})
    assert "has two weights named w" in refusal(path)
    keras_file(path, KERNEL)
    whole = path.read_bytes()
    for size in (8, 100, len(whole) // 2, len(whole) - 1):
        refusal(saved(tmp_path, whole[:size]))


def test_other_hdf5(tmp_path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file["images"] = normal(3)
    assert "is HDF5 of no known layout; expected" in refusal(path)


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras")


def small_model(keras):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv1_conv")(inputs)
    x = keras.layers.BatchNormalization(name="conv1_bn")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="predictions")(x))


def test_keras_own_files(tmp_path, keras):
    from keras.src.legacy.saving import legacy_h5_format

    model = small_model(keras)
    weights_only, full = tmp_path / "weights.h5", tmp_path / "full.h5"
    with h5py.File(weights_only, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    legacy_h5_format.save_model_to_hdf5(model, full)
    expected = {variable.path: np.asarray(variable.value) for variable in model.weights}
    assert "conv1_bn/moving_variance" in expected
    for path in (weights_only, full):
        tensors = formats.read(path).tensors
        assert_same({name: tensors.pop(name) for name in expected}, expected)
        assert tensors == {}


def test_keras_3_files_are_named(tmp_path, keras):
    model = small_model(keras)
    model.save_weights(tmp_path / "model.weights.h5")
    assert "is HDF5 of Keras 3's .weights.h5; expected" in refusal(tmp_path / "model.weights.h5")
    model.save(tmp_path / "model.keras")
    assert "is a .keras archive of Keras 3" in refusal(tmp_path / "model.keras")
