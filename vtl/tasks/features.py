"""Exercise 2: photos -> deep features -> .npz."""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
from tqdm import tqdm

from vtl import files
from vtl.console import format_seconds, say
from vtl.data import batches, deep_features, images, readers
from vtl.data.decoded import DecodedPhotos
from vtl.data.splits import describe_splits
from vtl.errors import UserError, check_choice, check_least
from vtl.evaluation import outcome
from vtl.files import write_json
from vtl.models.resnet import STAGES
from vtl.run_directory import RunDirectory
from vtl.training import steps
from vtl.training.state import by_batch, check_batch_size, make_mesh, replicated
from vtl.weights import network

BATCHES_BETWEEN_SAVES = 16


def run(config: ConfigDict, workdir: Path) -> None:
    """Write the features of the train and test split; a second call goes on where one stopped.

    Raises:
        UserError: data, weights, options or `workdir` are not as they should be.
    """
    _check_options(config)
    run_directory = RunDirectory(workdir, config)
    if outcome.was_finished(run_directory, _show):
        _remove_unfinished(workdir)
        return
    started = time.perf_counter()
    mesh = make_mesh()
    check_batch_size("batch_size", config.batch_size, mesh)
    splits = readers.read(config.data)
    # The features are read before the head, so that any will do.
    net = network.from_config(config, num_classes=1)
    weights = net.weights
    if weights is None:
        raise UserError("weights is empty: features of a random network are of no use")
    say(f"{network.describe(net.architecture)}, weights: {config.weights}")
    variables = network.starting_variables(net.model, weights, head="zeros", seed=0)
    variables = jax.device_put(variables, replicated(mesh))
    feature_step = steps.make_feature_step(
        net.model, net.preprocessing, mesh, layer=config.layer, grid=config.pool
    )
    photos = images.decode_splits(splits, net.preprocessing, crops=False)
    run_directory.begin()
    features, num_extracted = {}, 0
    for role in splits:
        features[role], count = extract(
            lambda batch: feature_step(variables, batch),
            photos[role],
            workdir / f"unfinished_{role}",
            batch_size=config.batch_size,
            sharding=by_batch(mesh),
            weights_sha256=weights.sha256,
        )
        num_extracted += count
    path = workdir / f"DF_ResNet{net.architecture.depth}_{config.data.name.upper()}.npz"
    meta = {
        "weights": weights.record(net.preprocessing),
        "data": describe_splits(config.data.name, splits),
        "layer": config.layer,
        "pool": config.pool,
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
    check_choice("layer", config.layer, STAGES)
    check_least(config, {"pool": 1})
    for role in ("train_split", "test_split"):
        if not config.data[role]:
            raise UserError(f"data.{role} is empty: name a split, as in ImageSets/Main")


def _show(run_directory: RunDirectory) -> None:
    say(str(run_directory.path / run_directory.read_results()["features"]))


def extract(
    feature_step: Callable[[jax.Array], jax.Array],
    photos: DecodedPhotos,
    partial: Path,
    *,
    batch_size: int,
    sharding: NamedSharding,
    weights_sha256: str,
) -> tuple[np.ndarray, int]:
    """photos [N, H, W, 3] -> a memory map of features [N, D], and how many were computed now.

    Goes on where `partial` stopped, if that was of the same photos and weights.
    """
    shape = (batch_size, *photos.shape[1:])
    width = jax.eval_shape(feature_step, jax.ShapeDtypeStruct(shape, np.uint8)).shape[1]
    array_path, done_path = partial.with_suffix(".npy"), partial.with_suffix(".json")
    # The name of decode_once's file is a hash of the photos and of how they were resized.
    made_of = {"photos": Path(str(photos.filename)).name, "weights": weights_sha256, "width": width}
    record = json.loads(done_path.read_text()) if done_path.exists() else {}
    first = done = record.pop("done", 0) if record.items() >= made_of.items() else 0
    if not done:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(photos), width)}
        with array_path.open("wb") as new_file:
            np.lib.format.write_array_header_1_0(new_file, header)
    bar = tqdm(total=len(photos), initial=done, desc="deep features", unit="photo")
    # Written and not mapped: on a full disk a map is a SIGBUS, and this an OSError.
    with array_path.open("r+b") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        file.seek(file.tell() + done * width * 4)
        file.truncate()
        unsaved = 0
        for batch, count in batches.eval_batches(photos, batch_size, sharding, first=done):
            file.write(np.asarray(feature_step(batch), "<f4")[:count].tobytes())
            done, unsaved = done + count, unsaved + 1
            bar.update(count)
            if unsaved == BATCHES_BETWEEN_SAVES or done == len(photos):
                file.flush()
                os.fsync(file.fileno())
                write_json(done_path, made_of | {"done": done})
                unsaved = 0
    bar.close()
    return np.load(array_path, mmap_mode="r"), done - first


def _remove_unfinished(workdir: Path) -> None:
    for path in workdir.glob("unfinished_*"):
        path.unlink()
