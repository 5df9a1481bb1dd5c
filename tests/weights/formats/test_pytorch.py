import io
import pickle
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from tests.weights.files import KEPT, assert_same, normal, refusal, saved
from tests.weights.formats.pickles import (
    call,
    legacy_layout,
    named,
    state_dict,
    storage,
    tensor,
    value,
    zip_layout,
)
from vtl.errors import UserError
from vtl.untrusted import printable
from vtl.weights import formats
from vtl.weights.formats import pytorch

# By hand: what the reader meets in hostile files, and where torch isn't installed

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


def test_torch_half_precision_is_widened(tmp_path):
    half, bfloat = normal(2, 3).astype(np.float16), normal(4).astype(ml_dtypes.bfloat16)
    code = state_dict(
        half=tensor("0", 6, (2, 3), (3, 1), kind="Half"),
        transposed=tensor("0", 6, (2, 2), (1, 3), offset=1, kind="Half"),
        bfloat=tensor("1", 4, (4,), (1,), kind="BFloat16"),
    )
    storages = {"0": half.tobytes(), "1": bfloat.tobytes()}
    weights = formats.read(saved(tmp_path, zip_layout(code, storages)))
    assert weights.dtypes == ("bfloat16", "float16")
    expected = {"half": half, "transposed": half[:, 1:].T, "bfloat": bfloat}
    assert_same(weights.tensors, {name: a.astype(np.float32) for name, a in expected.items()})


def test_torch_overlapping_halves_are_not_widened_beyond_the_file(tmp_path):
    views = {f"w{i}": tensor("0", 5000, (5000,), (1,), kind="Half") for i in range(9)}
    path = saved(tmp_path, zip_layout(state_dict(**views), {"0": bytes(10_000)}))
    assert "list of half-precision tensors promises 90000 bytes" in refusal(path)


W = tensor("0", 1, (1,), (1,))


@LAYOUTS
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "weights"])
def test_torch_checkpoint_is_unwrapped(tmp_path, layout, wrapper):
    inner = state_dict(conv1__weight=W, fc__bias=W)
    optimizer = b"}" + value("state") + b"}" + value(0) + state_dict(momentum=W) + b"ss"
    code = (
        b"}(" + value("epoch") + value(90) + value("best_acc1") + W + value(wrapper) + inner
    ) + (value("optimizer") + optimizer + b"u")
    tensors = formats.read(saved(tmp_path, layout(code, {"0": bytes(4)}))).tensors
    assert list(tensors) == ["conv1.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            b"}(" + value("model") + state_dict(w=W) + value("ema") + state_dict(w=W) + b"u",
            "holds several dicts of tensors: model, ema; `vtl weights convert` takes one by --key",
        ),
        (W, "holds no dict of tensors; save model.state_dict()"),
        (value({"epoch": 3}), "holds no dict of tensors; save model.state_dict()"),
        (state_dict(w=W, epoch=value(3)), "entry 'epoch' is of type int, not a tensor"),
        (b"}" + value(3) + W + b"s", "holds no dict of tensors; save model.state_dict()"),
        (
            state_dict(w=W, args=call("argparse.Namespace")),
            "entry 'args' is argparse.Namespace, not a tensor",
        ),
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
        (call("vtl.weights.formats.unpickler.Tensor"), "vtl.weights.formats.unpickler.Tensor"),
        (pickle.dumps(Runs(eval, "open('owned', 'w')"), protocol=4)[2:-1], "builtins.eval"),
        (pickle.dumps(np.ones(3), protocol=2)[2:-1], "numpy"),
        (b"\x8c\x08builtins\x8c\x0eev\x1b[31m\nal\x00\xe2\x82\xac\x93", "builtins.ev\\x1b[31m"),
    ],
)
def test_torch_pickle_may_ask_for_nothing_else(tmp_path, monkeypatch, layout, code, asked):
    monkeypatch.chdir(tmp_path)
    data = {"0": bytes(4)} if b"Storage" in code and b"_rebuild" in code else {}
    message = refusal(saved(tmp_path, layout(code, data)))
    assert f"holds no dict of tensors (asks for {asked}" in message
    assert message.endswith("; only tensors and plain values are read); save model.state_dict()")
    beside = b"}(" + value("args") + code + value("state_dict") + state_dict(w=W) + b"u"
    contents = formats.survey(saved(tmp_path, layout(beside, {"0": b"\0\0\x80?"})))
    assert_same(contents.whole().tensors, {"w": np.ones(1, np.float32)})
    assert any(printable(name).startswith(asked) for name in contents.skipped)
    assert not (tmp_path / "owned").exists()


def test_torch_refusal_in_full(tmp_path):
    path = saved(tmp_path, zip_layout(call("builtins.eval", value("1"))))
    assert refusal(path) == (
        f"{path}: holds no dict of tensors (asks for builtins.eval; only tensors and plain values "
        "are read); save model.state_dict()"
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
    assert "holds no dict of tensors" in refusal(saved(tmp_path, zip_layout(code)))


@pytest.mark.parametrize(
    ("code", "opcode"),
    [
        (b"(" + value("touch owned") + b"ios\nsystem\n", "INST"),
        (b"\x96\xff\xff\xff\xff\xff\x00\x00\x00", None),
        (b"N2", "DUP"),
    ],
)
def test_torch_opcodes_that_it_never_writes(tmp_path, code, opcode):
    message = refusal(saved(tmp_path, zip_layout(code)))
    assert f"holds the pickle opcode {opcode}" in message if opcode else "damaged" in message


def doubled(times):
    """A tuple of two of the one before, and so on, each by its memo."""
    code = value(("a", 1)) + b"q\x01"
    for number in range(2, times + 2):
        code += (
            b"0h" + bytes([number - 1]) + b"h" + bytes([number - 1]) + b"\x86q" + bytes([number])
        )
    return code


@LAYOUTS
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda bomb: b"}" + bomb + b"Ns",
        lambda bomb: b"(" + bomb + b"Nd",
        lambda bomb: b"\x8f(" + bomb + b"\x90",
        lambda bomb: b"(" + bomb + b"\x91",
        lambda bomb: call("collections.OrderedDict", b"](" + bomb + b"N\x86e"),
        lambda bomb: call("collections.Counter", b"}" + bomb + b"Ns"),
        lambda bomb: state_dict(w=tensor("0", 1, (1,), (1,))[:-2] + bomb + b"tR"),
        lambda bomb: bomb,
    ],
)
def test_torch_tuples_that_double_are_never_walked(tmp_path, layout, wrapped):
    """Forty doublings would take longer than anybody waits, and fill memory when printed."""
    refusal(saved(tmp_path, layout(wrapped(doubled(40)), {"0": bytes(4)})))


def test_torch_dicts_made_of_one_list_do_not_add_up(tmp_path):
    pairs = b"](" + (b"(" + value("k") + b"Nt") * 3 + b"eq\x05"
    made = b"0" + call("collections.OrderedDict", b"h\x05")
    loaded = pytorch.unpickle(io.BytesIO(b"\x80\x02" + pairs + made * 2 + b"."))
    assert loaded.value == {}
    too_many = named("collections.OrderedDict") + b"(" + b"N" * 99 + b"tR"
    assert "calls a function in a way" in refusal(saved(tmp_path, zip_layout(too_many)))


@LAYOUTS
def test_torch_plain_values_beside_the_tensors_are_dropped(tmp_path, layout):
    """What torch.load(weights_only=True) calls safe, and NumPy's scalars."""
    beside = {
        "size": call("torch.Size", value((3, 224, 224))),
        "device": call("torch.device", value("cpu")),
        "dtype": named("torch.float32"),
        "milestones": call("collections.Counter", value({3: 1})),
        "groups": call("collections.defaultdict", named("__builtin__.list")),
        "seen": call("__builtin__.set", value([1, 2])),
        "best": pickle.dumps(np.float64(0.7), protocol=2)[2:-1],
        "best4": pickle.dumps(np.float32(0.7), protocol=4)[2:-1],
        "by_place": b"}" + value((1, 2)) + value(3) + b"s",
    }
    code = b"}(" + value("state_dict") + state_dict(w=W)
    for name, plain in beside.items():
        # Each of NumPy's pickles counts its memos from 0, and asks for none of another's.
        code += value(name) + plain
    path = saved(tmp_path, layout(code + b"u", {"0": b"\0\0\x80?"}))
    assert_same(formats.read(path).tensors, {"w": np.ones(1, np.float32)})


def test_torch_state_dicts_further_down(tmp_path):
    def inside(*pairs):
        return b"}(" + b"".join(value(name) + code for name, code in pairs) + b"u"

    network = state_dict(**{f"w{i}": W for i in range(20)})
    optimizer = inside(("state", b"}" + value(0) + state_dict(momentum=W) + b"s"))
    epoch = ("epoch", value(3))
    for code in (
        inside(("checkpoint", inside(("model", network), ("optimizer", optimizer), epoch))),
        inside(("a", inside(("b", inside(("c", network)))))),
        inside(("meter", inside(("mean", W))), ("model", network)),
        inside(("best", W), ("checkpoint", inside(("best", W), ("model", network)))),
    ):
        path = saved(tmp_path, zip_layout(code, {"0": bytes(4)}))
        assert len(formats.read(path).tensors) == 20
    twice = inside(("model", network), ("model_ema", network[:-1] + b"u"))
    message = refusal(saved(tmp_path, zip_layout(twice, {"0": bytes(4)})))
    assert "holds several dicts of tensors: model, model_ema; " in message
    average = inside(("model", network), ("ema", inside(("module", network), ("decay", W))))
    message = refusal(saved(tmp_path, zip_layout(average, {"0": bytes(4)})))
    assert "holds several dicts of tensors: model, ema.module; " in message


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("torch._utils._rebuild_qtensor", "holds a quantised network (asks for"),
        ("torch._utils._rebuild_sparse_tensor", "holds sparse tensors (asks for"),
        ("__main__.Net", "is a whole module (asks for __main__.Net); save model.state_dict()"),
        ("argparse.Namespace", "no dict of tensors (asks for argparse.Namespace; only tensors"),
    ],
)
def test_torch_what_is_no_plain_tensor_is_named(tmp_path, name, what):
    assert what in refusal(saved(tmp_path, zip_layout(call(name))))


def test_torch_views_of_one_storage_are_bounded(tmp_path):
    views = {f"w{i}": tensor("0", 1 << 20, (1 << 20,), (1,)) for i in range(20)}
    path = saved(tmp_path, zip_layout(state_dict(**views), {"0": bytes(4 << 20)}))
    assert "list of tensors promises 83886080 bytes" in refusal(path)


def test_a_zip_of_a_million_files_is_not_opened(tmp_path):
    whole = bytearray(zip_layout(state_dict(w=W), {"0": bytes(4)}))
    at = whole.rindex(b"PK\5\6") + 12
    whole[at : at + 4] = (1 << 30).to_bytes(4, "little")
    assert "is a zip of more files than" in refusal(saved(tmp_path, bytes(whole)))


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
        ((2,), (-1,), 1, "has an impossible offset, shape or stride"),
        ((2,), (1,), -1, "has an impossible offset, shape or stride"),
        ((-1,), (1,), 0, "has an impossible offset, shape or stride"),
        ((1.0,), (1,), 0, "has an impossible offset, shape or stride"),
        ((2, 2), (1,), 0, "described in a way PyTorch doesn't"),
        ([2], [1], 0, "described in a way PyTorch doesn't"),
        ((0, 1 << 62), (1, 1), 0, "damaged"),
        ((1,) * 100, (1,) * 100, 0, "described in a way PyTorch doesn't"),
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
    code = state_dict(w=W)
    bomb = zip_layout(code, {"0": bytes(1 << 20)}, compression=zipfile.ZIP_DEFLATED)
    assert "is a compressed zip" in refusal(saved(tmp_path, bomb))
    # the same bytes, called stored: the directory then promises more than the file has
    stored = bytearray(bomb)
    for signature, field in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        for at in (m.start() for m in re.finditer(re.escape(signature), bomb)):
            stored[at + field : at + field + 2] = b"\0\0"
    assert "zip directory promises" in refusal(saved(tmp_path, bytes(stored)))
    script = zip_layout(code, extra={"constants.pkl": b"", "code/a.py": b""})
    assert "is TorchScript, a program; save the state_dict()" in refusal(saved(tmp_path, script))
    other = io.BytesIO()
    np.savez(other, w=np.ones(3))
    assert "is a zip, but not one of torch.save; expected" in refusal(
        saved(tmp_path, other.getvalue())
    )
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


# Held against torch.load

BOTH = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])


def assert_as_torch(torch, path, expected=None):
    loaded = expected or torch.load(path, weights_only=True)
    halves = (torch.float16, torch.bfloat16)
    expected = {
        name: (t.float() if t.dtype in halves else t).detach().numpy() for name, t in loaded.items()
    }
    assert_same(formats.read(path).tensors, expected)


@pytest.mark.parity
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
    floats = ("bfloat16", "float16", "float32", "float64")
    assert formats.read(tmp_path / "w.h5").dtypes == floats


@pytest.mark.parity
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


@pytest.mark.parity
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
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(checkpoint, path, _use_new_zipfile_serialization=new)
    assert_as_torch(torch, path, model.state_dict())


@pytest.mark.parity
@BOTH
def test_torch_whole_model_and_expanded_tensor_are_refused(tmp_path, new):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w"
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=new)
    message = "is a whole module (asks for torch.nn.modules.linear.Linear); save model.state_dict()"
    assert message in refusal(path)
    torch.save({"w": torch.ones(1).expand(9)}, path, _use_new_zipfile_serialization=new)
    assert "reaches beyond its storage" in refusal(path)


@pytest.mark.parametrize(("count", "length"), [(1, 600), (100_100, 1)], ids=["long", "many"])
def test_names_of_classes_beyond_any_file_are_refused(tmp_path, count, length):
    """Each name is kept, so that a file of a megabyte could take gigabytes."""
    asked = (named(f"a.{'N' * length}{number}") + b"0" for number in range(count))
    code = b"\x80\x02(" + b"".join(asked) + b"."
    path = tmp_path / "w"
    path.write_bytes(zip_layout(code))
    assert "more classes, or longer names of them, than any file" in refusal(path)
