"""What a weight file holds: one dict of tensors or, as checkpoints of a training do, several."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from vtl.errors import UserError
from vtl.untrusted import printable
from vtl.weights.formats.untrusted import Tensors, check_count, errors_of

OUTERMOST = "."
"""What people call the entry without a key, where there are others."""


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a weight file.

    `format` is "safetensors", "torch", "keras_legacy_h5" or "keras3_weights_h5".
    """

    path: Path
    format: str
    tensors: Tensors
    metadata: dict[str, str]
    dtypes: tuple[str, ...] = ()
    """The floating-point types in the file, such as ("float16", "float32")."""


class Entry(NamedTuple):
    """One dict of tensors, of which none is looked at before it is asked for."""

    names: tuple[str, ...]
    """Of tensors, in the file's order."""
    others: dict[str, str]
    """Names of what is no tensor -> what it is."""
    load: Callable[[Collection[str]], Tensors]
    """Tensors by their names, as they are stored; UserError for one that is described wrongly."""


@dataclass(frozen=True)
class Contents:
    """All that a weight file holds.

    `entries` are its dicts of tensors by the keys that lead there, with dots between them: "" is
    the file's own, "checkpoint.model" one in {"checkpoint": {"model": ...}}.
    """

    path: Path
    format: str
    entries: dict[str, Entry]
    metadata: dict[str, str]
    keys: tuple[str, ...] = ()
    """Of the outermost dict."""
    lists: dict[str, int] = field(default_factory=dict)
    """Lists of tensors, which have no names, by their keys -> how many."""
    skipped: tuple[str, ...] = ()
    """Names of the classes and functions that a pickle asks for, of which nothing is read."""

    def networks(self) -> dict[str, Entry]:
        """The entries that may be networks: a tenth as many tensors are no second one."""
        most = max((len(entry.names) for entry in self.entries.values()), default=0)
        return {
            key: entry
            for key, entry in self.entries.items()
            if most == 0 or 10 * len(entry.names) > most
        }

    def only(self) -> str:
        """The key of the one network; UserError if there are several."""
        networks = self.networks()
        if len(networks) == 1:
            return next(iter(networks))
        raise UserError(
            f"{printable(self.path)}: holds several dicts of tensors: {some_keys(networks)}; "
            "`vtl weights convert` takes one by --key"
        )

    def take(self, key: str, names: Mapping[str, str]) -> WeightsFile:
        """Tensors of the entry `key`, by their names there -> their names from now on.

        Raises:
            UserError: one of them is no tensor, or is damaged.
        """
        entry = self.entries[key]
        with errors_of(self.path):
            for name, what in entry.others.items():
                if name in names:
                    raise UserError(f"entry '{printable(name, 60)}' is {what}, not a tensor")
            check_count("tensors", len(names))
            stored = entry.load(names)
            tensors = {names[name]: _widen(array) for name, array in stored.items()}
            dtypes = {a.dtype.name for a in stored.values() if a.dtype.kind == "f" or is_half(a)}
        return WeightsFile(self.path, self.format, tensors, self.metadata, tuple(sorted(dtypes)))

    def whole(self) -> WeightsFile:
        """All tensors of the one network; UserError as `only` and `take`."""
        key = self.only()
        entry = self.entries[key]
        return self.take(key, {name: name for name in (*entry.names, *entry.others)})


def some_keys(keys: Collection[str]) -> str:
    """The first four, for a message."""
    shown = [printable(key, 60) or f"{OUTERMOST} (the outermost)" for key in [*keys][:4]]
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    return ", ".join(shown) + more


def is_half(array: np.ndarray) -> bool:
    """Whether its numbers take two bytes each."""
    return array.dtype in (np.float16, ml_dtypes.bfloat16)


def _widen(array: np.ndarray) -> np.ndarray:
    """The array in native byte order, half precision as float32; UserError if it isn't numbers."""
    if is_half(array):
        return array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise UserError(f"holds values of type {array.dtype}; expected numbers")
    return array.astype(array.dtype.newbyteorder("="), copy=False)
