"""The .npz of deep features, which exercise 2 writes and exercise 3 reads.

It has the lab's four keys X_train, Y_train, X_test, Y_test, with rows in split-file order. vtl adds
ids_ROLE, difficult_ROLE, classes, and meta (JSON text: weights, preprocessing, data).
"""

import dataclasses
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from vtl.data.splits import Split, ids_sha256
from vtl.data.voc import CLASSES
from vtl.errors import UserError
from vtl.files import write_npz


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureSplit:
    """One split: features [N, D], labels, difficult [N, C]; ids and difficult may be unknown."""

    features: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...] | None
    difficult: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class DeepFeatures:
    """The content of a file. `meta` is {} if the lab's own script made it."""

    splits: dict[str, FeatureSplit]
    classes: tuple[str, ...]
    meta: dict[str, Any]


def write(
    path: Path, features: dict[str, np.ndarray], splits: dict[str, Split], meta: dict[str, Any]
) -> None:
    """Write the features [N, D] of every split; memory maps are streamed, not read as a whole."""
    arrays: dict[str, np.ndarray] = {}
    for role, split in splits.items():
        arrays[f"X_{role}"] = features[role]
        arrays[f"Y_{role}"] = split.labels.astype(np.float32)
        arrays[f"ids_{role}"] = np.array(split.ids)
        arrays[f"difficult_{role}"] = split.difficult
    arrays["classes"] = np.array(next(iter(splits.values())).classes)
    arrays["meta"] = np.array(json.dumps(meta))
    write_npz(path, arrays, compressed=False)


def read(path: str | Path) -> DeepFeatures:
    """Read and check a file that vtl or the lab's own script wrote.

    Raises:
        UserError: the file or a key is missing, shapes don't fit, or values aren't finite.
    """
    path = Path(path)
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with file:
            arrays = dict(file)
        meta = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
    except FileNotFoundError:
        raise UserError(f"features={path}: no such file; `vtl deep_features` makes one") from None
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path} is not a readable .npz: {error}") from None
    roles = [key.removeprefix("X_") for key in arrays if key.startswith("X_")]
    for role in {"train", *roles}:
        if missing := {f"X_{role}", f"Y_{role}"} - arrays.keys():
            raise UserError(f"{path} lacks {', '.join(sorted(missing))}")
    splits = {role: _read_split(path, role, arrays) for role in roles}
    width, num_classes = splits["train"].features.shape[1], splits["train"].labels.shape[1]
    for role, split in splits.items():
        if (split.features.shape[1], split.labels.shape[1]) != (width, num_classes):
            raise UserError(
                f"{path}: X_{role} {split.features.shape} and Y_{role} {split.labels.shape} must "
                f"be as wide as X_train and Y_train, {width} and {num_classes}"
            )
    names = tuple(arrays["classes"].tolist()) if "classes" in arrays else CLASSES
    if len(names) != num_classes:
        names = tuple(f"class{c}" for c in range(num_classes))
    for role, expected in meta.get("data", {}).get("ids_sha256", {}).items():
        ids = splits[role].ids if role in splits else None
        if ids and ids_sha256(ids) != expected:
            raise UserError(
                f"{path}: ids_{role} are not the ids of the split that its meta names, or not in "
                "that order\n"
                "The rows have changed since the features were made: make them again."
            )
    return DeepFeatures(splits, names, meta)


def _read_split(path: Path, role: str, arrays: dict[str, np.ndarray]) -> FeatureSplit:
    features = arrays[f"X_{role}"].astype(np.float32, copy=False)
    labels = arrays[f"Y_{role}"]
    ids = arrays.get(f"ids_{role}")
    difficult = arrays.get(f"difficult_{role}")
    if features.ndim != 2 or labels.ndim != 2 or not len(features):
        raise UserError(
            f"{path}: X_{role} {features.shape} and Y_{role} {labels.shape} must be [N, D] and "
            "[N, C] with at least one row"
        )
    for name, array in (("Y", labels), ("ids", ids), ("difficult", difficult)):
        if array is not None and len(array) != len(features):
            raise UserError(
                f"{path}: {name}_{role} has {len(array)} rows, but X_{role} has {len(features)}"
            )
    if difficult is not None and difficult.shape != labels.shape:
        raise UserError(
            f"{path}: difficult_{role} {difficult.shape} must have the shape of Y_{role}, "
            f"{labels.shape}"
        )
    rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(rows):
        first = f"row {rows[0]}" if ids is None else f"{ids[rows[0]]} (row {rows[0]})"
        raise UserError(
            f"{path}: X_{role} has NaN or infinity in {len(rows)} of {len(features)} rows; "
            f"the first is {first}"
        )
    if not np.isin(labels, (0, 1)).all():
        raise UserError(f"{path}: Y_{role} must hold only 0 and 1")
    return FeatureSplit(
        features,
        labels.astype(np.uint8),
        None if ids is None else tuple(ids.tolist()),
        difficult,
    )
