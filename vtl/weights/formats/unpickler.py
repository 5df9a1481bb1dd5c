"""The pickles of torch.save as plain values: a pickle is a program, of which only data is read.

Tensors, dicts, lists and plain values are read. Whatever else a pickle asks for by name, be it a
class, a function or a module, is never looked up: an `Inert` stands for it, for what it would
return, and for the objects made of it.
"""

import io
import itertools
import pickle
import pickletools
import re
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from vtl.errors import UserError

MAX_PICKLE_BYTES = 1 << 22
"""A ResNet-152's takes 150 kB, with an optimizer's state three times that; tensors lie outside."""

MAX_OPCODES = 500_000
"""A ResNet-152 with an optimizer's state takes some 100,000."""

_MAX_ARGUMENTS = 16
_MOST_OPCODES = 1000
_OPCODES = {
    opcode.name: ord(opcode.code)
    for opcode in pickletools.opcodes
    # What torch.save never writes, or sets aside as many bytes as the file says it should.
    if not re.match(r"EXT|INST|OBJ|PERSID|DUP|BYTEARRAY8|.*_BUFFER", opcode.name)
}

STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class Storage(NamedTuple):
    """Numbers of one type, stored beside the pickle under a key."""

    type: str
    key: str
    numel: int

    @property
    def nbytes(self) -> int:
        """What they take."""
        return self.numel * STORAGES[self.type].itemsize


class Tensor(NamedTuple):
    """A tensor as the pickle describes it; nothing of it is checked yet."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any


class Inert:
    """Stands for a class, a function or an object; whatever a pickle does to it changes nothing."""

    def __init__(self, name: str) -> None:
        """`name` is what the pickle asks for."""
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Drop the state."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Drop the item."""

    def append(self, item: Any) -> None:
        """Drop the item."""

    def add(self, item: Any) -> None:
        """Drop the item."""


class _Dict(dict[Any, Any]):
    """A dict that hashes no key of unknown depth."""

    @classmethod
    def of(cls, pairs: Iterable[Any] = ()) -> "_Dict":
        """From pairs of a key and a value."""
        made = cls()
        for key, value in pairs:
            made[key] = value
        return made

    def __setitem__(self, key: Any, value: Any) -> None:
        """A key that is no plain value goes by its identity: nobody asks for it."""
        super().__setitem__(key if type(key) in _KEYS else Inert("a key"), value)

    def __setstate__(self, state: Any) -> None:
        """Drop the `_metadata` attribute that Module.state_dict hangs on its dict."""


_KEYS = (str, int, bool, float, bytes, type(None))
_HARMLESS = re.compile(
    r"collections\.Counter"
    r"|builtins\.(set|bytearray|complex|dict|list|int|float)|_codecs\.encode"
    r"|numpy\.dtype|numpy\._?core\.multiarray\.scalar|numpy\.dtypes\.\w+DType"
    r"|torch\.(Size|device|per_(tensor|channel)_\w+)|torch\.serialization\._get_layout"
    r"|torch\.(u?int\d+|q?u?int\d+(x\d)?|b?float\d+(_\w+)?|complex\d+|bool|half|float|double|long)"
)
"""Names that torch.load calls safe, and a few as harmless, of which no tensor is made."""

_KNOWN = {
    r"torch\._utils\._rebuild_qtensor|torch\.\w*Q\w*Storage|torch\.ao\..+": (
        "holds a quantised network (asks for {}); vtl needs the network of floats that it was made "
        "from"
    ),
    r"torch\._utils\._rebuild_sparse\w*_tensor": (
        "holds sparse tensors (asks for {}); save model.state_dict() of dense ones"
    ),
    r"(torch\.nn|torchvision|timm|transformers|__main__)\.(?!parameter\.Parameter$).+": (
        "is a whole module (asks for {}); save model.state_dict() instead"
    ),
}
"""What holds networks and isn't read, by the name that it asks for -> what to say."""


def complaint(names: Iterable[str]) -> str:
    """What to say of a network that is not read as one of these was asked for, the first that is
    known; "" if none is.
    """
    for name in names:
        for pattern, reason in _KNOWN.items():
            if re.fullmatch(pattern, name, re.DOTALL):
                return reason.format(name)
    return ""


def _ordered_dict(pairs: Any = None) -> _Dict:
    """From nothing or, as Python 2 wrote it, from a list.

    The list is emptied: dicts made of it again and again would fill memory.
    """
    made = _Dict.of(pairs or ())
    if pairs is not None:
        pairs.clear()
    return made


def _tensor_of_another_type(
    function: Any, type_: Any, arguments: Any, state: Any
) -> Tensor | Inert:
    """A tensor that carries attributes, which go."""
    if isinstance(function, Inert):
        return function
    tensor = function(*arguments)
    if not isinstance(tensor, Tensor | Inert):
        raise UserError("describes a tensor in a way PyTorch doesn't; refused")
    return tensor


def _constructors() -> dict[str, Callable[..., Any] | str]:
    """What may be called or named, made anew for each pickle, which can set attributes on it."""
    # A tensor whose sign or conjugation is still due has a seventh argument: one too many.
    return {
        "torch._utils._rebuild_tensor": lambda *described: Tensor(*described),
        "torch._utils._rebuild_tensor_v2": lambda *described: Tensor(*described[:-2]),
        "torch._utils._rebuild_parameter": lambda tensor, requires_grad, hooks: tensor,
        "torch._utils._rebuild_parameter_with_state": lambda tensor, grad, hooks, state: tensor,
        "torch._tensor._rebuild_from_type_v2": lambda *described: _tensor_of_another_type(
            *described
        ),
        "torch.Tensor": "Tensor",
        "torch.nn.parameter.Parameter": "Parameter",
        **{f"torch.{storage}": storage for storage in STORAGES},
        "collections.OrderedDict": lambda *pairs: _ordered_dict(*pairs),
        "collections.defaultdict": lambda *_: _Dict(),
    }


class Unpickled(NamedTuple):
    """What a pickle describes, the storages that it names, and what of it is not read."""

    value: Any
    storages: dict[str, Storage]
    skipped: tuple[str, ...]
    """Names that it asks for, in order, less those of harmless values."""


def unpickle(file: BinaryIO) -> Unpickled:
    """The next pickle of the file, which is left behind it.

    Raises:
        UserError: it does what torch.save's never do, or is larger than a list of tensors.
    """
    start = file.tell()
    for count, (opcode, _, _) in enumerate(pickletools.genops(file)):
        if opcode.name not in _OPCODES:
            raise UserError(f"holds the pickle opcode {opcode.name}, not of torch.save; refused")
        if file.tell() - start > MAX_PICKLE_BYTES or count > MAX_OPCODES:
            raise UserError("holds a pickle larger than any list of tensors; refused")
    size = file.tell() - start
    file.seek(start)
    unpickler = _Unpickler(io.BytesIO(file.read(size)))
    value = unpickler.load()
    skipped = (name for name in unpickler.inert if not _HARMLESS.fullmatch(name))
    return Unpickled(value, unpickler.storages, tuple(skipped))


def first_names(file: BinaryIO) -> list[str]:
    """What a pickle asks for first, as `module name`, read without being built."""
    texts: list[str] = []
    names = []
    for opcode, argument, _ in itertools.islice(pickletools.genops(file), _MOST_OPCODES):
        if opcode.name == "GLOBAL":
            names.append(str(argument))
        elif opcode.name == "STACK_GLOBAL":
            names.append(" ".join(texts))
        elif isinstance(argument, str):
            texts = [*texts[-1:], argument]
    return names


# Python's interpreter, of which opcodes can be left out. The one in C hashes any key, and a tuple
# that holds another twice, which holds a third twice, forty times over, is never hashed to the end.
_MAX_NAME, _MAX_NAMES = 500, 100_000
"""Characters of the name of a class or function, and how many of them."""


class _Unpickler(pickle._Unpickler):
    """Turns a pickle into plain values, Storage and Tensor, and refuses to do more."""

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}
        self.inert: dict[str, Inert] = {}
        self._constructors = _constructors()

    def _load_empty_dict(self) -> None:
        self.append(_Dict())

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.append(_Dict.of(zip(items[::2], items[1::2], strict=True)))

    def _load_reduce(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if isinstance(called, Inert):
            self.append(called)
            return
        if not isinstance(arguments, tuple) or len(arguments) > _MAX_ARGUMENTS:
            raise UserError("calls a function in a way PyTorch doesn't; refused")
        self.append(called(*arguments))

    def _load_newobj_ex(self) -> None:
        del self.stack[-2:]
        if not isinstance(self.stack[-1], Inert):
            raise UserError("makes an object in a way PyTorch doesn't; refused")

    def _load_set(self) -> None:
        self.append(Inert("a set"))

    def _load_frozenset(self) -> None:
        self.pop_mark()
        self.append(Inert("a set"))

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a global: nothing is imported."""
        asked = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if asked in self._constructors:
            return self._constructors[asked]
        if len(asked) > _MAX_NAME or len(self.inert) >= _MAX_NAMES:
            raise UserError(
                "asks for more classes, or longer names of them, than any file; refused"
            )
        return self.inert.setdefault(asked, Inert(asked))

    def persistent_load(self, pid: Any) -> Storage | Inert:
        """The storage that a tensor's description names, or a module's class."""
        match pid:
            # The legacy layout ends on None, where it once kept views of storages.
            case ("storage", str(type_), str(key), _, int(numel), *view) if (
                type_ in STORAGES and numel >= 0 and view in ([], [None])
            ):
                storage = Storage(type_, key, numel)
                if self.storages.setdefault(key, storage) == storage:
                    return storage
            case ("module", Inert() as class_, *_):
                return class_
            case ("storage", Inert(name=name), *_):
                raise UserError(complaint([name]) or f"holds numbers of type {name}; refused")
        raise UserError("describes a storage in a way PyTorch doesn't; refused")

    _OWN: ClassVar[dict[str, Callable[["_Unpickler"], None]]] = {
        "EMPTY_DICT": _load_empty_dict,
        "DICT": _load_dict,
        "REDUCE": _load_reduce,
        "NEWOBJ": _load_reduce,
        "NEWOBJ_EX": _load_newobj_ex,
        "EMPTY_SET": _load_set,
        "FROZENSET": _load_frozenset,
    }
    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code: pickle._Unpickler.dispatch[code] for code in _OPCODES.values()
    } | {_OPCODES[name]: load for name, load in _OWN.items()}
