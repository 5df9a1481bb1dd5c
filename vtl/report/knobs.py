"""The knobs of the runs' configs, and those in which runs differ."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vtl import identity
from vtl.untrusted import printable

MAX_OF_RUN, MAX_COLUMNS = 300, 100
"""A config has 60 knobs; who adds thousands gets no columns for them."""

WHERE_FILES_LIE = frozenset(identity.PATHS) - {"weights"}
"""Knobs that are others on every machine."""

NO_VALUE = "–"


class Differing(NamedTuple):
    """The knobs that differ between runs of one task, those that most runs differ in first."""

    names: list[str]
    num_left_out: int


def of_config(config: dict[str, Any]) -> dict[str, str]:
    """The knobs of a config as text, by name."""
    flat = identity.named_as_now(identity.flatten(config))
    names = [name for name in flat if name not in WHERE_FILES_LIE]
    return {name: _written(flat[name]) for name in names[:MAX_OF_RUN]}


def _written(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value), 60)


def differing(all_knobs: Sequence[Mapping[str, str]]) -> Differing:
    """The knobs in which runs of the same task differ."""
    by_task: dict[str, list[Mapping[str, str]]] = {}
    for knobs in all_knobs:
        if knobs:
            by_task.setdefault(knobs.get("task", ""), []).append(knobs)
    found: dict[str, tuple[int, int]] = {}
    for of_task in by_task.values():
        for name in {name: None for knobs in of_task for name in knobs}:
            missing = _written(identity.ADDED[name]) if name in identity.ADDED else NO_VALUE
            values = Counter(knobs.get(name, missing) for knobs in of_task)
            others = len(of_task) - values.most_common(1)[0][1]
            if others:
                num_with = sum(name in knobs for knobs in of_task)
                before = found.get(name, (0, 0))
                found[name] = before[0] + others, before[1] + num_with
    # What one run alone has may be made up: it comes last.
    names = sorted(found, key=lambda n: (-found[n][0], -found[n][1], n))
    return Differing(names[:MAX_COLUMNS], max(0, len(names) - MAX_COLUMNS))
