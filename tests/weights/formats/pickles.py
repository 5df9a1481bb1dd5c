"""Writes what torch.save does, opcode by opcode, where torch isn't installed or wouldn't."""

import io
import pickle
import struct
import zipfile

import numpy as np

from vtl.weights.formats import pytorch


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
        pickle.dumps(pytorch._MAGIC, protocol=2),
        pickle.dumps(1001, protocol=2),
        pickle.dumps({"little_endian": little_endian}, protocol=2),
        b"\x80\x02" + code + b".",
        pickle.dumps(list(storages), protocol=2),
    ]
    for key, data in storages.items():
        parts += [struct.pack("<q", (counts or {}).get(key, len(data) // 4)), data]
    return b"".join(parts)


def torch_file(path, value_of_all):
    """Write nested dicts, lists, float32 arrays, plain values and `Code` as torch.save does."""
    storages = {}

    def code_of(item):
        match item:
            case np.ndarray():
                key = str(len(storages))
                array = np.ascontiguousarray(item, np.float32)
                storages[key] = array.tobytes()
                strides = tuple(step // 4 for step in array.strides)
                return tensor(key, array.size, item.shape, strides)
            case dict():
                items = b"".join(value(name) + code_of(inner) for name, inner in item.items())
                return b"}(" + items + b"u"
            case list():
                return b"](" + b"".join(map(code_of, item)) + b"e"
            case Code():
                return item.code
            case _:
                return value(item)

    path.write_bytes(zip_layout(code_of(value_of_all), storages))
    return path


class Code:
    """Opcodes that leave one object on the stack."""

    def __init__(self, code):
        self.code = code


def opaque(name="argparse.Namespace"):
    """An object of a class, as protocol 2 writes it: made without arguments, then given a state."""
    return Code(named(name) + b")\x81" + value({"lr": 0.1, "arch": "resnet18"}) + b"b")
