"""The .npz of deep features, which exercise 2 writes and exercise 3 reads.

It has the lab's four keys X_train, Y_train, X_test, Y_test, with rows in split-file order. vtl adds
ids_ROLE, difficult_ROLE, classes, meta (JSON text: weights, preprocessing, data), and mask_ROLE
where a label is not known: 0 there.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from vtl import schema
from vtl.data.split import Split, ids_sha256
from vtl.data.voc import CLASSES
from vtl.errors import UserError
from vtl.files import user_path, write_npz
from vtl.untrusted import printable, read_npz, reason_of

ROLE = re.compile(r"[A-Za-z0-9_-]{1,40}")
"""What a split may go by: files are named after it."""


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureSplit:
    """One split: features [N, D]; labels, label_mask and difficult [N, C], as in `Split`.

    ids and difficult may be None; a label_mask of None is 1 everywhere.
    """

    features: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...] | None
    difficult: np.ndarray | None
    label_mask: np.ndarray | None = None

    @property
    def has_one_label_each(self) -> bool:
        """Whether every photo has a single label, known and not difficult."""
        is_known = self.label_mask is None or bool(self.label_mask.all())
        is_easy = self.difficult is None or not self.difficult.any()
        return is_known and is_easy and bool((self.labels.sum(axis=1) == 1).all())


@dataclasses.dataclass(frozen=True, eq=False)
class DeepFeatures:
    """The content of a file. `meta` is {} if the lab's own script made it."""

    splits: dict[str, FeatureSplit]
    classes: tuple[str, ...]
    meta: dict[str, Any]

    @property
    def is_said_to_have_one_label_each(self) -> bool:
        """Whether the data was laid out for one label a photo, which a devkit isn't."""
        return bool(self.meta.get("data", {}).get("one_label_each"))


def write(
    path: Path, features: dict[str, np.ndarray], splits: dict[str, Split], meta: dict[str, Any]
) -> None:
    """Write the features [N, D] of every split; memory maps are streamed, not read as a whole."""
    arrays: dict[str, np.ndarray] = {}
    for role, split in splits.items():
        arrays[f"X_{role}"] = features[role]
        arrays[f"Y_{role}"] = np.asarray(split.labels, np.float32)
        arrays[f"ids_{role}"] = np.array(split.ids, np.str_)  # also if there are none
        arrays[f"difficult_{role}"] = split.difficult
        if not np.all(split.label_mask):
            arrays[f"mask_{role}"] = split.label_mask
    arrays["classes"] = np.array(next(iter(splits.values())).classes)
    arrays["meta"] = np.array(json.dumps(meta))
    write_npz(path, arrays, compressed=False)


SHARD = schema.record(
    {
        "index": schema.count,
        "count": schema.at_least(1),
        "rows": schema.dict_of(schema.list_of(schema.count, length=2), least=1),
        "num_images": schema.dict_of(schema.count, least=1),
        "ids_sha256": schema.dict_of(schema.text, least=1),
    }
)
"""What meta says of a shard: which it is, of how many; of each split the first of its rows and the
one after the last; and of all shards together the photos and the sha256 of their ids."""

META = schema.record(
    {},
    {
        "weights": schema.maybe(
            schema.record(
                {},
                {
                    "name": schema.maybe(schema.text),
                    "sha256": schema.text,
                    "preprocessing": schema.record({}),
                },
            )
        ),
        "data": schema.maybe(
            schema.record(
                {},
                {
                    "name": schema.maybe(schema.text),
                    "splits": schema.dict_of(schema.text),
                    "ids_sha256": schema.dict_of(schema.text),
                    "one_label_each": schema.flag,
                    "broken": schema.dict_of(schema.dict_of(schema.text)),
                },
            )
        ),
        "layer": schema.text,
        "pool": schema.count,
        "pooling": schema.text,
        "shard": SHARD,
    },
)
"""What meta holds, all of which may be missing."""


def read(path: str | Path, *, is_shard: bool = False) -> DeepFeatures:
    """Read and check a file, ours or the lab's, before anything is done with it.

    Of splits in a file that `is_shard` there may be no photos.

    Raises:
        UserError: no such file, missing keys, arrays or meta of another kind or shape, values that
            aren't finite; or it is a shard and should be whole, or the other way round.
    """
    path = user_path(path)
    with schema.of_file(path):
        if not path.exists():
            raise UserError("no such file; `vtl deep_features` makes one (:demo without data)")
        arrays = read_npz(path)
        meta = _read_meta(arrays)
        _check_shard(meta.get("shard"), is_shard)
        roles = [key.removeprefix("X_") for key in arrays if key.startswith("X_")]
        splits = {
            role: _read_split(role, arrays, is_shard) for role in dict.fromkeys(("train", *roles))
        }
        num_features = splits["train"].features.shape[1]
        num_classes = splits["train"].labels.shape[1]
        for role, split in splits.items():
            if (split.features.shape[1], split.labels.shape[1]) != (num_features, num_classes):
                raise UserError(
                    f"X_{role} {split.features.shape} and Y_{role} {split.labels.shape} must be "
                    f"as wide as X_train and Y_train, {num_features} and {num_classes}"
                )
        _check_ids(splits, meta)
        return DeepFeatures(splits, _read_classes(arrays, num_classes), meta)


def _check_shard(shard: dict[str, Any] | None, is_shard: bool) -> None:
    if shard and not is_shard:
        raise UserError(
            f"it is shard {shard['index']}/{shard['count']} and not all features: join the shards "
            "by `vtl features merge`"
        )
    if is_shard and not shard:
        raise UserError("it is no shard: its meta names none")


def _read_split(role: str, arrays: dict[str, np.ndarray], may_be_empty: bool) -> FeatureSplit:
    if not ROLE.fullmatch(role):
        raise UserError(f"'X_{printable(role, 40)}' is not named after a split, as X_train is")
    if missing := {f"X_{role}", f"Y_{role}"} - arrays.keys():
        raise UserError(f"it lacks {', '.join(sorted(missing))}")
    is_empty = may_be_empty and arrays[f"X_{role}"].shape[:1] == (0,)
    photos = 0 if is_empty else "photos"
    features = schema.array(arrays, f"X_{role}", schema.NUMBERS, (photos, "features"))
    num_images = len(features)
    labels = arrays[f"Y_{role}"]
    if labels.ndim == 1 and len(labels) == num_images:
        raise UserError(
            f"'Y_{role}' has one number a photo and should have a column a class: 1 where the "
            "photo has it, else 0"
        )
    labels = schema.array(arrays, f"Y_{role}", schema.NUMBERS, (photos, "classes"))
    difficult, label_mask = arrays.get(f"difficult_{role}"), arrays.get(f"mask_{role}")
    ids = arrays.get(f"ids_{role}")
    by_name = {"Y": labels, "ids": ids, "difficult": difficult, "mask": label_mask}
    for name, rows in by_name.items():
        if rows is not None and rows.shape[:1] != (num_images,):
            raise UserError(
                f"{name}_{role} has {rows.shape[0] if rows.ndim else 'no'} rows, but X_{role} has "
                f"{num_images}"
            )
    names = None if ids is None else _read_ids(f"ids_{role}", arrays, photos)
    with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite
        features = features.astype(np.float32, copy=False)
    if len(rows := np.flatnonzero(~np.isfinite(features).all(axis=1))):
        which = f"row {rows[0]}"
        if names is not None:
            which = f"{printable(names[rows[0]], 60)} (row {rows[0]})"
        raise UserError(
            f"X_{role} has NaN or infinity in {len(rows)} of {num_images} rows; the first is "
            f"{which}"
        )
    labels = schema.flags(arrays, f"Y_{role}", labels.shape).astype(np.uint8)
    if difficult is not None:
        difficult = schema.flags(arrays, f"difficult_{role}", labels.shape).astype(np.uint8)
    if label_mask is not None:
        label_mask = schema.flags(arrays, f"mask_{role}", labels.shape).astype(np.uint8)
    return FeatureSplit(features, labels, names, difficult, label_mask)


def _read_ids(key: str, arrays: dict[str, np.ndarray], photos: int | str) -> tuple[str, ...]:
    if arrays[key].dtype.kind in "iu":  # as COCO's are
        return tuple(map(str, schema.array(arrays, key, "iu", (photos,)).tolist()))
    return schema.texts(arrays, key, photos)


def _read_classes(arrays: dict[str, np.ndarray], num_classes: int) -> tuple[str, ...]:
    """The names of the columns of Y; of a file without them those of VOC, where there are 20."""
    if "classes" not in arrays:
        is_voc = num_classes == len(CLASSES)
        return CLASSES if is_voc else tuple(f"class{c}" for c in range(num_classes))
    names = schema.texts(arrays, "classes", num_classes)
    for name in names:
        if not name.strip():
            raise UserError("'classes' has a class without a name")
        if names.count(name) > 1:
            raise UserError(f"'classes' has {printable(name, 60)} {names.count(name)} times")
    return names


def _read_meta(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    if "meta" not in arrays:
        return {}
    if arrays["meta"].size != 1:
        raise UserError(f"'meta' has {arrays['meta'].size} values and should be one JSON text")
    (written,) = schema.texts({"meta": arrays["meta"].reshape(1)}, "meta", 1)
    try:
        meta = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise UserError(f"'meta' is no JSON: {reason_of(error)}") from None
    META(meta, "meta")
    return {key: value for key, value in meta.items() if value is not None}


def _check_ids(splits: dict[str, FeatureSplit], meta: dict[str, Any]) -> None:
    for role, expected in meta.get("data", {}).get("ids_sha256", {}).items():
        ids = splits[role].ids if role in splits else None
        if ids and ids_sha256(ids) != expected:
            raise UserError(
                f"ids_{role} are not the ids of the split that its meta names, or not in that "
                "order\nThe rows have changed since the features were made: make them again."
            )
