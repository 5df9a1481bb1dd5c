"""Exercise 2: photos -> deep features -> .npz."""

import dataclasses
import hashlib
import io
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
from tqdm import tqdm

from vtl import files, identity, knobs
from vtl.console import format_seconds, say
from vtl.data import batches, deep_features, prepare
from vtl.data.batches import Images
from vtl.data.split import describe_splits
from vtl.data.splits import ROLES, file_label, name_of, of_config, table_of_counts
from vtl.errors import UserError, check_choice
from vtl.evaluation import outcome
from vtl.files import set_aside, write_json
from vtl.models.head import POOLINGS
from vtl.models.resnet import STAGES
from vtl.run_directory import RunDirectory
from vtl.schema import count, of_file, record, text
from vtl.training import steps
from vtl.training.state import by_batch, check_batch_sizes, make_mesh, replicate
from vtl.untrusted import open_plain, printable, read_json, reading
from vtl.weights import network, sources

BATCHES_BETWEEN_SAVES = 16

_DONE = record({"done": count, "sha256": text})
"""What unfinished_ROLE.json says of the .npy beside it: the rows that are there, and their hash."""

_MAX_DONE_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20


def run(config: ConfigDict, workdir: Path) -> None:
    """Write the features of the train and test split; a second call resumes.

    Raises:
        UserError: data, weights or an option is invalid, or `workdir` holds something else.
    """
    _check_options(config)
    run_directory = RunDirectory(workdir, config)
    if outcome.was_finished(run_directory, lambda: _content_by_path(config), _format_outcome):
        _remove_unfinished(workdir)
        return
    started = time.perf_counter()
    mesh = make_mesh()
    check_batch_sizes({"batch_size": config.batch_size}, mesh)
    splits = of_config(config.data)
    say(table_of_counts(splits))
    # Features come from before the head, so any number of classes will do.
    net = network.from_config(config, num_classes=1)
    weights = net.weights
    if weights is None:
        raise UserError(
            "weights is empty, and a random network's features are of no use: name some"
        )
    say(f"{network.describe(net.architecture)}, weights: {config.weights}")
    variables = network.starting_variables(net.model, weights, head="zeros", seed=0)
    variables = replicate(variables, mesh)
    feature_step = steps.make_feature_step(
        net.model,
        net.preprocessing,
        mesh,
        layer=config.layer,
        grid=config.pool,
        pooling=config.pooling,
    )
    content: dict[str, Any] = {
        "data": identity.of_splits(splits),
        "weights": weights.sha256,
        "preprocessing": identity.json_sha256(dataclasses.asdict(net.preprocessing)),
    }
    run_directory.compare(content)  # before the photos are decoded, which takes long
    prepared = prepare.prepare(splits, net.preprocessing, config.data, crops=False)
    splits, photos = prepared.splits, prepared.photos
    content["data"] |= identity.of_photos(splits)
    run_directory.begin(content)
    prepared.write(workdir)
    features, num_extracted = {}, 0
    for role in splits:
        features[role], num_new = extract(
            lambda batch: feature_step(variables, batch),
            photos[role],
            workdir / f"unfinished_{role}",
            photos_name=photos[role].name,
            batch_size=config.batch_size,
            sharding=by_batch(mesh),
            weights_sha256=weights.sha256,
        )
        num_extracted += num_new
    path = workdir / f"DF_ResNet{net.architecture.depth}_{file_label(config.data)}.npz"
    meta = {
        "weights": weights.record(net.preprocessing),
        "data": describe_splits(name_of(config.data), splits) | prepared.record(),
        "layer": config.layer,
        "pool": config.pool,
        "pooling": config.pooling,
    }
    deep_features.write(path, features, splits, meta)
    seconds = time.perf_counter() - started
    rate = num_extracted / seconds if num_extracted else None
    run_directory.write_results(
        {
            "network": dataclasses.asdict(net.architecture),
            "features": path.name,
            "sha256": files.file_sha256(path),
            "num_images": {role: len(split) for role, split in splits.items()},
            "num_features": next(iter(features.values())).shape[1],
            "images_per_second": rate,
            "seconds": {"total": seconds},
            **meta,
        }
    )
    _remove_unfinished(workdir)
    say(f"{num_extracted} photos in {format_seconds(seconds)}: {path}")


def _check_options(config: ConfigDict) -> None:
    knobs.check(config)
    prepare.check_options(config.data)
    check_choice("layer", config.layer, STAGES)
    check_choice("pooling", config.pooling, POOLINGS)
    for role in ("train_split", "test_split"):
        if not config.data[role]:
            raise UserError(f"data.{role} is empty: name a split of the data, such as trainval")


def _content_by_path(config: ConfigDict) -> dict[str, Any]:
    """Of what the run is made of, by hash, what a path of the config names."""
    content: dict[str, Any] = {}
    if config.data.root:
        content |= {"data": identity.of_splits(of_config(config.data))}
    if config.weights not in sources.SOURCES:
        content |= {"weights": sources.load(config.weights).sha256}
    return content


def _format_outcome(run_directory: RunDirectory, results: dict[str, Any]) -> str:
    return str(run_directory.path / results["features"])


def extract(
    feature_step: Callable[[jax.Array], jax.Array],
    photos: Images,
    partial: Path,
    *,
    photos_name: str,
    batch_size: int,
    sharding: NamedSharding,
    weights_sha256: str,
) -> tuple[np.ndarray, int]:
    """photos [N, H, W, 3] -> a memory map of features [N, D], and how many this call computed.

    Resumes from `partial` if it is of photos of that name, and weights, and is undamaged.
    """
    shape = (batch_size, *photos.shape[1:])
    width = jax.eval_shape(feature_step, jax.ShapeDtypeStruct(shape, np.uint8)).shape[1]
    array_path, done_path = partial.with_suffix(".npy"), partial.with_suffix(".json")
    made_of = {"photos": photos_name, "weights": weights_sha256, "width": width}
    header = _header(len(photos), width)
    first, digest = _done(array_path, done_path, made_of, header, len(photos))
    if not first:
        for path in (done_path, array_path):
            _clear(path)
        with array_path.open("xb") as new_file:
            new_file.write(header)
        digest = hashlib.sha256(header)
    progress = tqdm(total=len(photos), initial=first, desc="deep features", unit="photo")
    # Written and not mapped: on a full disk a map is a SIGBUS, and this an OSError.
    with progress, array_path.open("r+b") as file:
        file.seek(len(header) + first * width * 4)
        file.truncate()
        done, unsaved = first, 0
        for batch, size in batches.eval_batches(photos, batch_size, sharding, first=first):
            rows = np.asarray(feature_step(batch), "<f4")[:size].tobytes()
            file.write(rows)
            digest.update(rows)
            done, unsaved = done + size, unsaved + 1
            progress.update(size)
            if unsaved == BATCHES_BETWEEN_SAVES or done == len(photos):
                file.flush()
                os.fsync(file.fileno())
                write_json(done_path, made_of | {"done": done, "sha256": digest.hexdigest()})
                unsaved = 0
    return np.load(array_path, mmap_mode="r"), done - first


def _header(num_photos: int, width: int) -> bytes:
    """That of the .npy file of so many features."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (num_photos, width)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def _done(
    array_path: Path, done_path: Path, made_of: dict[str, Any], header: bytes, num_photos: int
) -> tuple[int, Any]:
    """How many rows are there of what is `made_of` this, and the hash so far of their file.

    None if it is damaged, which a warning says, or has other photos or weights.
    """
    digest = hashlib.sha256()
    if not os.path.lexists(done_path):
        return 0, digest
    try:
        with of_file(done_path):
            found = read_json(done_path, max_bytes=_MAX_DONE_BYTES, inside=done_path.parent)
            _DONE(found, "")
            if found["done"] > num_photos:
                raise UserError(f"'done' is {found['done']:,} of {num_photos:,} photos")
        if not found.items() >= made_of.items():
            return 0, digest
        left = len(header) + found["done"] * made_of["width"] * 4
        with open_plain(array_path, inside=array_path.parent) as file, reading(array_path):
            while left and (content := file.read(min(left, _PIECE_BYTES))):
                digest.update(content)
                left -= len(content)
        if left or digest.hexdigest() != found["sha256"]:
            raise UserError(f"{printable(array_path)} is not what was written there")
    except UserError as error:
        logging.warning("%s: all of it is computed again", error)
        return 0, digest
    return found["done"], digest


def _clear(path: Path) -> None:
    """Make way for a file; what no run of vtl left there, such as a directory, is set aside."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        set_aside(path, path.name, path.parent)


def _remove_unfinished(workdir: Path) -> None:
    for role, suffix in itertools.product(ROLES, (".npy", ".json")):
        path = workdir / f"unfinished_{role}{suffix}"
        if path.is_file():
            path.unlink()
