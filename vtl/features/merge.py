"""Shards of deep features, each in its run directory, -> a run directory that holds them all.

They are read one by one, so that the features of only one are in memory. The photos and labels that
come together must be those of the whole data.
"""

import contextlib
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from vtl import identity
from vtl.data import deep_features, images
from vtl.data.deep_features import DeepFeatures, FeatureSplit
from vtl.data.split import Split, describe_splits, ids_sha256
from vtl.errors import UserError
from vtl.features.parts import Part, read_all
from vtl.files import file_sha256
from vtl.run_directory import RunDirectory
from vtl.schema import dict_of, of_file, record, text
from vtl.untrusted import printable

_META = record({"weights": record({}), "data": record({"name": text, "splits": dict_of(text)})})

_OF_EACH = ("commit", "versions", "devices", "images_per_second", "seconds", "sha256")
"""What the results of the whole keep of each shard's."""


def merge(directories: Sequence[Path], workdir: Path) -> Path:
    """Join the shards in `directories`, or in shard_I_OF_N below them, into a run in `workdir`.

    Returns the .npz, whose arrays are those of a run that computes all features.

    Raises:
        UserError: shards are missing, there twice, unfinished, damaged or not of the same run, or
            `workdir` holds something already.
    """
    started = time.perf_counter()
    parts = read_all(directories)
    if any(part.results.get("versions") != parts[0].results.get("versions") for part in parts):
        logging.warning("the shards are by different versions of vtl or of what it is built on")
    run = RunDirectory(workdir, ConfigDict(parts[0].config | {"shard": ""}))
    if run.is_finished:
        raise UserError(f"{printable(workdir)} holds finished features: choose another --workdir")
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        roles = parts[0].results["shard"]["rows"]
        files = {
            role: stack.enter_context(tempfile.TemporaryFile(dir=workdir.parent)) for role in roles
        }
        splits, meta = _joined(parts, files)
        features = {
            role: np.asarray(np.memmap(files[role], "<f4", "r")).reshape(len(split), -1)
            for role, split in splits.items()
        }
        content = parts[0].content_of_all
        run.begin(content | {"data": content["data"] | identity.of_photos(splits)})
        name = parts[0].results["features"].removesuffix(f"_{parts[0].shard.name}.npz") + ".npz"
        deep_features.write(workdir / name, features, splits, meta)
    run.write_results(
        {
            "network": parts[0].results["network"],
            "features": name,
            "sha256": file_sha256(workdir / name),
            "num_images": {role: len(split) for role, split in splits.items()},
            "num_features": next(iter(features.values())).shape[1],
            "seconds": {"merge": time.perf_counter() - started},
            "shards": [{key: part.results.get(key) for key in _OF_EACH} for part in parts],
            **meta,
        }
    )
    return workdir / name


def _joined(
    parts: Sequence[Part], files: Mapping[str, BinaryIO]
) -> tuple[dict[str, Split], dict[str, Any]]:
    """Write the features of each role to its file; return the splits, and meta for all of them."""
    read: list[DeepFeatures] = []
    broken: dict[str, dict[str, str]] = {role: {} for role in files}
    for part in parts:
        data = _read_features(part)
        _check_fits(part, data, read[0] if read else data)
        for role, its in data.splits.items():
            files[role].write(np.ascontiguousarray(its.features, "<f4").data)
            broken[role] |= data.meta["data"].get("broken", {}).get(role, {})
        read.append(_without_features(data))
    broken = {role: its for role, its in broken.items() if its}
    meta, classes = read[0].meta, read[0].classes
    splits = {
        role: _whole(name, [data.splits[role] for data in read], classes)
        for role, name in meta["data"]["splits"].items()
    }
    for role, split in splits.items():
        files[role].flush()
        if not len(split):
            raise UserError(f"none of the photos of {printable(role, 40)} could be decoded")
    if not broken and identity.of_splits(splits) != parts[0].content_of_all["data"]:
        raise UserError(
            "together the shards have other photos or labels than each says that all have: make "
            "them again"
        )
    of_data = describe_splits(meta["data"]["name"], splits) | {
        "one_label_each": meta["data"].get("one_label_each", False),
        "broken": broken,
        "duplicates": None,
        "dropped_from_train": 0,
        "decode": meta["data"].get("decode", images.EXACT),
    }
    return splits, {key: x for key, x in meta.items() if key != "shard"} | {"data": of_data}


def _read_features(part: Part) -> DeepFeatures:
    name = part.results["features"]
    is_named = name in part.results["files"] and name.endswith(f"_{part.shard.name}.npz")
    if not is_named or Path(name).name != name or not (part.path / name).exists():
        raise UserError(f"{printable(part.path)} has lost its features: make the shard again")
    part.run.check_finished(lambda: {})  # that its files are what it wrote
    data = deep_features.read(part.path / name, is_shard=True)
    with of_file(part.path / name):
        _META(data.meta, "meta")
    return data


def _without_features(data: DeepFeatures) -> DeepFeatures:
    """What is kept in memory of a shard."""
    splits = {
        role: dataclasses.replace(its, features=np.empty((0, its.features.shape[1]), np.float32))
        for role, its in data.splits.items()
    }
    return dataclasses.replace(data, splits=splits)


def _check_fits(part: Part, data: DeepFeatures, first: DeepFeatures) -> None:
    """Refuse features that are not what the shard's other files say, or not like the first ones."""
    rows, unread = part.results["shard"]["rows"], data.meta["data"].get("broken", {})
    fits = data.meta["shard"] == part.results["shard"]
    fits &= data.splits.keys() == rows.keys() == data.meta["data"]["splits"].keys()
    fits &= data.meta["weights"]["sha256"] == part.content["weights"]
    fits &= data.classes == first.classes
    for role, its in data.splits.items() if fits else ():
        left_out = unread.get(role, {})
        start, stop = rows[role]
        fits &= its.ids is not None and len(its.ids) + len(left_out) == stop - start
        fits &= its.features.shape[1] == first.splits[role].features.shape[1]
        fits &= its.difficult is not None
    if not fits:
        raise UserError(
            f"{printable(part.path)} holds other features than its results.json says: make the "
            "shard again"
        )


def _whole(name: str, pieces: Sequence[FeatureSplit], classes: tuple[str, ...]) -> Split:
    """A split of all photos; where they lie doesn't matter any more."""
    masks = [
        np.ones_like(its.labels) if its.label_mask is None else its.label_mask for its in pieces
    ]
    ids = tuple(itertools.chain.from_iterable(its.ids or () for its in pieces))
    return Split(
        name=name,
        ids=ids,
        paths=(),
        labels=np.concatenate([its.labels for its in pieces]),
        label_mask=np.concatenate(masks),
        difficult=np.concatenate([its.difficult for its in pieces if its.difficult is not None]),
        classes=classes,
        ids_sha256=ids_sha256(ids),
    )
