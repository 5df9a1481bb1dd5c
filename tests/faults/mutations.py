"""Seeded damage to values, as `mutate` does it to bytes: JSON, arrays, and kinds of files."""

import collections
import copy
import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vtl.errors import UserError

ODD_VALUES = (
    *(None, True, False, 0, 1, -1, 3, 2**70, 10**400, 0.5, -0.5, 1e-320, 1e30, 1e308, -1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "nan",
        "\x1b[31mred\x07",
        "<b>&amp;",
        "$x$ \\frac{",
        "%s{}",
    ),
    *(
        "a" * 10_000,
        "\ud800",
        "\u202e\x00",
        "../../outside",
        "test",
        "train",
        "trained",
        "diverged",
    ),
    *([], [1], [[]], ["x", "x"], [None] * 3, {}, {"a": 1}, {"test": {}}, {"lab": 0.5}),
    json.loads("[" * 100 + "]" * 100),
)

ODD_DTYPES = ("f2", "f4", "f8", ">f4", "i1", "i8", "u1", "u8", "?", "c8", "S3", "U3", "V4", "M8[s]")
ODD_NUMBERS = (np.nan, np.inf, -np.inf, -1, 2, 0.5, 1e30, 3e38, 255, 1e9)

Rng = np.random.Generator


def mutated_json(value: Any, rng: Rng) -> Any:
    """A copy in which one to three places are something else, gone, renamed, doubled or new."""
    value = copy.deepcopy(value)
    for _ in range(rng.integers(1, 4)):
        places = list(_places(value))
        if not places:
            return copy.deepcopy(ODD_VALUES[rng.integers(len(ODD_VALUES))])
        parent, key = places[rng.integers(len(places))]
        odd = copy.deepcopy(ODD_VALUES[rng.integers(len(ODD_VALUES))])
        kind = rng.integers(8)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[odd if isinstance(odd, str) else f"{key}x"] = parent.pop(key)
        elif kind == 2 and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        elif kind == 3:
            other, other_key = places[rng.integers(len(places))]
            if not isinstance(other[other_key], list | dict):  # which could hold itself
                parent[key] = other[other_key]
        else:
            parent[key] = odd
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in JSON."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in list(pairs):
        yield value, key
        if isinstance(entry, dict | list):
            yield from _places(entry)


def mutated_arrays(arrays: dict[str, np.ndarray], rng: Rng) -> dict[str, np.ndarray]:
    """A copy of which one or two arrays are gone, doubled, of another kind, shape or value."""
    arrays = dict(arrays)
    for _ in range(rng.integers(1, 3)):
        key = list(arrays)[rng.integers(len(arrays))]
        if rng.random() < 0.1:
            del arrays[key]
        elif rng.random() < 0.1:
            arrays[f"X_{key}"] = arrays[key]
        else:
            arrays[key] = _mutated_array(arrays[key], rng)
        if not arrays:
            break
    return arrays


def _mutated_array(array: np.ndarray, rng: Rng) -> np.ndarray:
    kind = rng.integers(9)
    if kind == 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return array.astype(ODD_DTYPES[rng.integers(len(ODD_DTYPES))])
            except (ValueError, TypeError):
                return np.zeros(array.shape, ODD_DTYPES[rng.integers(len(ODD_DTYPES))])
    if kind == 1:
        return array[: rng.integers(len(array) + 1)] if array.ndim else array[None]
    if kind == 2:
        return array[None]
    if kind == 3:
        return array.T if array.ndim > 1 else np.array(array.reshape(-1)[:1].tolist())
    if kind == 4:
        return np.array([{}, None], object)
    if kind == 5:
        return np.empty((0, 5), array.dtype) if rng.random() < 0.5 else np.empty((10**9, 0), "f4")
    if kind == 6:
        return np.concatenate([array, array]) if array.ndim else np.array(3)
    if array.dtype.kind in "US" or not array.size:
        texts = [x for x in ODD_VALUES if isinstance(x, str)]
        changed = array.astype("U10000") if array.size < 9 else array.astype("U20")
        changed = np.atleast_1d(changed)
        changed[:1] = texts[rng.integers(len(texts))]
        return changed
    changed = array.astype("f8") if kind == 7 else array.copy()
    flat = changed.reshape(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            flat[rng.integers(flat.size)] = ODD_NUMBERS[rng.integers(len(ODD_NUMBERS))]
        except (ValueError, OverflowError):
            flat[0] = 1
    return changed


def replace_file(path: Path, rng: Rng, outside: Path) -> None:
    """Put something else in the place of a file: nothing, a folder, a pipe or a link."""
    path.unlink(missing_ok=True)
    kind = rng.integers(5)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(outside)
    elif kind == 3:
        path.symlink_to("/dev/zero")


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """An .npz, with pickles where there are objects."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **arrays)
    return buffer.getvalue()


PROGRAMS: list[str] = []
"""The audit events of programs that were started while `watched`."""

_is_watching = False
_has_hook = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    starts = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")
    if _is_watching and event in starts:
        PROGRAMS.append(f"{event} {arguments!r}"[:200])


@contextmanager
def watched(hang_s: int = 300) -> Iterator[None]:
    """Note programs that are started, and end what hangs."""
    global _is_watching, _has_hook
    if not _has_hook:
        sys.addaudithook(_hook)
        _has_hook = True

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt(f"no end after {hang_s} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(hang_s)
    _is_watching = True
    try:
        yield
    finally:
        _is_watching = False
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def is_good_line(line: str) -> bool:
    """Whether a message is short and printable."""
    rows = line.split("\n")
    return len(rows) <= 3 and all(row.isprintable() and len(row) <= 600 for row in rows)


class Outcomes:
    """How often each thing came of it, and what should not have."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.bad: list[str] = []

    def note(self, seed: int, read: Callable[[], str]) -> None:
        """Count what `read` returns, a UserError as `line`; anything else is bad."""
        try:
            with watched(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcome = read()
        except UserError as error:
            outcome = "line" if is_good_line(str(error)) else f"poor line: {error!s:.300}"
        except (Exception, KeyboardInterrupt) as error:
            outcome = f"{type(error).__name__}: {error!s:.200} {_where(error)}"
        if PROGRAMS:
            outcome = f"started {PROGRAMS.pop()}"
        if outcome in ("line", "right"):
            self.counts[outcome] += 1
        else:
            self.counts["bad"] += 1
            self.bad.append(f"{seed}: {outcome}")


def _where(error: BaseException) -> str:
    traceback, places = error.__traceback__, []
    while traceback:
        code = traceback.tb_frame.f_code
        places.append(f"{Path(code.co_filename).name}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return " ".join(places[-4:])
