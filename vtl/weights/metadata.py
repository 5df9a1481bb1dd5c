"""What our own weight files say of themselves: the one place where it is written and read.

It is JSON in a safetensors file's metadata, `vtl` in a network's and `vtl_head` in a head's.
"""

import contextlib
import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from vtl.decisions import Decisions
from vtl.errors import UserError
from vtl.models import families
from vtl.models.architecture import Architecture, as_record
from vtl.models.head import POOLINGS, TRANSFORMS
from vtl.preprocessing import Preprocessing
from vtl.untrusted import printable
from vtl.weights.formats import WeightsFile

NETWORK_KEY = "vtl"
HEAD_KEY = "vtl_head"


class NetworkMeta(NamedTuple):
    """Of a network: what it is, what its photos must be, and what its columns are and mean."""

    architecture: Architecture
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None
    multi_label: bool
    decisions: Decisions | None = None


class HeadMeta(NamedTuple):
    """Of a head: what its columns are, and which features it was fitted to, transformed how.

    What the features' file did not say is None.
    """

    classes: tuple[str, ...]
    weights_name: str | None
    weights_sha256: str | None
    preprocessing: Preprocessing | None
    layer: str
    """The stage, or "" for the last."""
    pool: int
    pooling: str
    transform: str
    decisions: Decisions | None = None
    multi_label: bool = True


def network_text(meta: NetworkMeta) -> str:
    """What `read_network` reads."""
    return json.dumps(
        {
            "architecture": as_record(meta.architecture),
            "preprocessing": dataclasses.asdict(meta.preprocessing),
            "classes": list(meta.classes) if meta.classes else None,
            "multi_label": meta.multi_label,
        }
        | _stated(meta.decisions)
    )


def head_text(
    classes: tuple[str, ...],
    features: Mapping[str, Any],
    transform: str,
    decisions: Decisions | None = None,
    *,
    multi_label: bool = True,
) -> str:
    """What `read_head` reads: the meta of the features as their file has it."""
    head = {
        "classes": list(classes),
        "features": features,
        "transform": transform,
        "multi_label": multi_label,
    }
    return json.dumps(head | _stated(decisions))


def _stated(decisions: Decisions | None) -> dict[str, Any]:
    return {"decisions": dataclasses.asdict(decisions)} if decisions else {}


def _decisions(meta: dict[str, Any], num_classes: int | None) -> Decisions | None:
    stated = meta.get("decisions")
    return None if stated is None else Decisions.from_dict(_object(stated), num_classes)


def read_network(file: WeightsFile, implied: Architecture) -> NetworkMeta | None:
    """What the file says of its network; None if something else wrote it.

    Raises:
        UserError: it can't be, or doesn't fit the tensors, which imply an architecture.
    """
    if NETWORK_KEY not in file.metadata:
        return None
    with _damage(file, NETWORK_KEY):
        meta = _object(json.loads(file.metadata[NETWORK_KEY]))
        own = families.from_record(_object(_of(meta, "architecture")))
        if not own.agrees_with(implied):
            raise ValueError(f"it says {own}, its tensors are of {implied}")
        names = _of(meta, "classes")
        return NetworkMeta(
            own,
            Preprocessing.from_dict(_object(_of(meta, "preprocessing"))),
            None if names is None else class_names(names, implied.num_classes),
            bool(meta.get("multi_label", False)),
            _decisions(meta, implied.num_classes),
        )


def read_head(file: WeightsFile) -> HeadMeta:
    """What the file says of its head.

    Raises:
        UserError: it is damaged, or the file is none of a head.
    """
    if HEAD_KEY not in file.metadata:
        raise UserError(
            f"{printable(file.path)}: it lacks the metadata `{HEAD_KEY}`, so it is no probe's head"
        )
    with _damage(file, HEAD_KEY):
        meta = _object(json.loads(file.metadata[HEAD_KEY]))
        features = _object(_of(meta, "features"))
        weights = _object(features.get("weights") or {})
        name, sha256, before = (weights.get(k) for k in ("name", "sha256", "preprocessing"))
        layer, pool = features.get("layer", ""), features.get("pool", 1)
        is_text = isinstance(name, str | None) and isinstance(sha256, str | None)
        if not is_text or not isinstance(layer, str) or type(pool) is not int:
            raise ValueError("its weights, layer or pool are none")
        pooling, transform = features.get("pooling", "average"), meta.get("transform", "none")
        if pooling not in POOLINGS or transform not in TRANSFORMS:
            raise ValueError(f"its head is unknown: {pooling}, {transform}")
        classes = class_names(_of(meta, "classes"))
        return HeadMeta(
            classes,
            name,
            sha256,
            None if before is None else Preprocessing.from_dict(_object(before)),
            layer,
            pool,
            pooling,
            transform,
            _decisions(meta, len(classes)),
            bool(meta.get("multi_label", True)),  # heads of before are all of several labels
        )


@contextlib.contextmanager
def _damage(file: WeightsFile, key: str) -> Iterator[None]:
    """Any exception as one line that names the file and the key."""
    try:
        yield
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise UserError(
            f"{printable(file.path)}: its metadata `{key}` is damaged ({printable(error, 150)})"
        ) from error


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object was expected, not {type(value).__name__}")
    return value


def _of(values: dict[str, Any], key: str) -> Any:
    if key not in values:
        raise ValueError(f"{key} is missing")
    return values[key]


def class_names(names: Any, count: int | None = None) -> tuple[str, ...]:
    """The names of a head's columns, in their order.

    Raises:
        ValueError: they are no list of `count` lines of text.
    """
    is_list = isinstance(names, list) and count in (None, len(names)) and len(names) > 0
    if not is_list or not all(isinstance(name, str) and name.isprintable() for name in names):
        raise ValueError(f"its {count or ''} classes are not named each by a line of text")
    return tuple(names)


def columns(have: Collection[str], want: Collection[str]) -> list[int]:
    """Which column of a head of the classes `have` is of each class of `want`.

    Raises:
        UserError: the classes are others, or a name is there twice.
    """
    if list(have) == list(want):
        return list(range(len(want)))
    place = {name: column for column, name in enumerate(have)}
    if len(place) != len(have) or place.keys() != set(want) or len(want) != len(have):
        only = [
            f"{side} has {_some(names)}"
            for side, names in (
                ("only the head", [name for name in have if name not in set(want)]),
                ("only the data", [name for name in want if name not in place]),
            )
            if names
        ]
        raise UserError("; ".join(only) or "a name is there twice, and the order is another")
    return [place[name] for name in want]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(printable(name, 40) for name in names[:4]) + more
