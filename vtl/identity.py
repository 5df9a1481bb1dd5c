"""What makes a run the same run: its config and, by hash, what its data, weights and features are.

What lies at another path but has the same content is the same; what was changed in its place isn't.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vtl.errors import UserError
from vtl.schema import Check, count, of_file, record, text
from vtl.untrusted import printable, read_json

FILE_NAME = "made_of.json"
FORMAT_VERSION = 1

PATHS = ("data.root", "data.labels", "weights", "features", "head_from")
"""The knobs that say where something lies. A run's content goes by their first word."""

Changes = dict[str, tuple[Any, Any]]
"""A knob -> its values before and now; ABSENT is none."""

ABSENT = "absent"

ADDED = {
    "data.decode": "exact",
    "thresholds": "f1",
    "loss": "",
    "class_weights": "none",
    "shard": "",
    "mix_with_start": [],
    "svm_costs": [],
    "svm_folds": 3,
    "svm_positive_weight": 2.0,
    "low_shot": [],
    "low_shot_draws": 5,
}
"""Knobs that runs of before lack, with the value, in JSON, that leaves what these computed."""

NAMED_ANEW = {"layer": ("layer4", ""), "pooling": ("average", "")}
"""Knobs whose default runs of before call by another name, with that and today's, in JSON."""

_KNOWN_SINCE = "data.decode"
"""A knob that came with the new names: a config with it means what it says."""

_LAST_STAGE = "layer4_.*", "last_stage"
"""Likewise the pattern of a rule."""

UNKNOWN = 2
"""What stands for a label that isn't known where labels are hashed."""

_ROWS_AT_ONCE = 1 << 14


class Split(Protocol):
    """What is recorded of a split: ids [N], labels and difficult [N, C], classes [C]."""

    @property
    def ids(self) -> Sequence[str]:
        """[N]."""

    @property
    def labels(self) -> Any:
        """[N, C]: an array, or what becomes one by rows."""

    @property
    def label_mask(self) -> np.ndarray:
        """[N, C]."""

    @property
    def difficult(self) -> np.ndarray:
        """[N, C]."""

    @property
    def classes(self) -> Sequence[str]:
        """[C]."""


def of_splits(splits: Mapping[str, Split]) -> dict[str, Any]:
    """The content of a data set, by role: classes, ids, labels and difficult flags, each by hash.

    Of the photos that is all: theirs are the ids, and to read every file again takes too long.
    """
    classes = next(iter(splits.values())).classes
    return {"classes": text_sha256(classes)} | {
        role: {
            "ids": text_sha256(split.ids),
            "labels": _labels_sha256(split),
            "difficult": array_sha256(split.difficult),
        }
        for role, split in splits.items()
    }


def of_photos(splits: Mapping[str, Split]) -> dict[str, Any]:
    """The photos in use of each split, by role: those that are not broken and were not dropped."""
    return {f"{role}.used": text_sha256(split.ids) for role, split in splits.items()}


def _labels_sha256(split: Split) -> str:
    """Of the labels; one that isn't known counts as neither 0 nor 1."""
    if np.all(split.label_mask):
        return array_sha256(split.labels)
    return array_sha256(np.where(split.label_mask, split.labels, UNKNOWN).astype(np.uint8))


def array_sha256(array: Any) -> str:
    """Of an array's shape and numbers, as the content of a run records labels and flags."""
    digest = hashlib.sha256(f"{array.shape}".encode())
    for first in range(0, len(array), _ROWS_AT_ONCE):  # some hold their rows in less memory
        digest.update(np.ascontiguousarray(array[first : first + _ROWS_AT_ONCE]).tobytes())
    return digest.hexdigest()


def text_sha256(lines: Iterable[str]) -> str:
    """Of lines of text and of their order."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def json_sha256(value: Any) -> str:
    """Of a value that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """The knobs of two configs that differ."""
    flat_before, flat_now = flatten(before), flatten(now)
    named = named_as_now(flat_before)
    found = {
        key: (flat_before.get(key, ABSENT), flat_now.get(key, ABSENT))
        for key in sorted(flat_before.keys() | flat_now.keys())
    }
    return {
        key: (was, is_now)
        for key, (was, is_now) in found.items()
        if is_now not in (was, named.get(key, ABSENT))
        and (was, is_now) != (ABSENT, ADDED.get(key, ABSENT))
    }


def named_as_now(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs of a flat config with today's names for what runs of before call otherwise."""
    if _KNOWN_SINCE in flat:
        return dict(flat)
    return {key: _as_named_now(key, value) for key, value in flat.items()}


def _as_named_now(key: str, value: Any) -> Any:
    before, now = NAMED_ANEW.get(key, (None, None))
    if key == "optim.rules" and isinstance(value, list):
        old, new = _LAST_STAGE
        return [[new, *rule[1:]] if rule[:1] == [old] else rule for rule in value]
    return now if value == before else value


def may_have_moved(changed: Changes) -> bool:
    """Whether the configs differ only in where something lies."""
    return all(
        knob in PATHS and (knob.startswith("data.") or all(pair)) and ABSENT not in pair
        for knob, pair in changed.items()
    )


def describe(changed: Changes) -> str:
    """`optim.learning_rate 0.1 -> 0.01`, for the first three that differ."""
    shown = [
        f"{printable(key, 60)} {_shown(before)} -> {_shown(now)}"
        for key, (before, now) in list(changed.items())[:3]
    ]
    return ", ".join(shown) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def _shown(value: Any) -> str:
    return printable(value, 80) or '""'


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"momentum": 0.9}} -> {"optim.momentum": 0.9}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's knobs, but for those that say where something lies."""
    return {name: value for name, value in flatten(config).items() if name not in PATHS}


def made_of(config: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """What made_of.json holds: `content`, and the id of a run of this config that is made of it."""
    run = json_sha256([without_paths(config), content])
    return {"format_version": FORMAT_VERSION, "run": run, "content": dict(content)}


def _content(value: Any, key: str) -> None:
    record({})(value, key)
    for name, entry in flatten(value).items():
        text(entry, f"{key}.{name}")


_MADE_OF: Check = record({"format_version": count, "run": text, "content": _content})


def read(directory: Path) -> dict[str, Any] | None:
    """The directory's made_of.json; None if there is none, as in runs of vtl 0.1.

    Raises:
        UserError: it is damaged.
    """
    path = directory / FILE_NAME
    if not path.exists():
        return None
    with of_file(path):
        found = read_json(path, inside=directory)
        _MADE_OF(found, "")
    return found


def other_content(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, what both contents have and what differs: `labels of the train split`."""
    flat_before, flat_now = flatten(before), flatten(now)
    common = sorted(flat_before.keys() & flat_now.keys(), key=_rank)
    words = [_words(key) for key in common if flat_before[key] != flat_now[key]]
    # Where the classes are others, so is every label.
    return ["classes"] if "classes" in words else list(dict.fromkeys(words))


_ORDER = ("weights", "features", "head_from", "data.classes")


def _rank(key: str) -> tuple[int, str]:
    return _ORDER.index(key) if key in _ORDER else len(_ORDER), key


def _words(key: str) -> str:
    """`data.train.labels` -> `labels of the train split`."""
    first, *rest = key.split(".")
    if first != "data":
        return {"head_from": "head"}.get(first, printable(first, 40))
    *role, what = rest or ["data"]
    named = {"difficult": "difficult flags", "used": "photos in use"}
    words = printable(named.get(what, what), 40)
    return f"{words} of the {printable(role[0], 40)} split" if role else words


def other(path: Path, words: Sequence[str], further: str) -> UserError:
    """That a run was begun with other content, by `other_content`'s words, and a further line."""
    more = f" and {len(words) - 2} more" if words[2:] else ""
    first = (
        f"{printable(path)} was begun with other {', '.join(words[:2])}{more} than are there "
        "now: restore them, or choose another --workdir"
    )
    return UserError("\n".join(filter(None, (first, further))))
