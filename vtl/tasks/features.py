"""Exercise 2: photos -> deep features -> .npz."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
from tqdm import tqdm

from vtl.data import batches, deep_features, fetch, images, voc
from vtl.errors import UserError, check_choice
from vtl.records import RunDirectory, say, write_json
from vtl.training import steps
from vtl.training.state import by_batch, check_batch_size, make_mesh, replicated
from vtl.weights import network, sources

BATCHES_BETWEEN_SAVES = 16


def run(config: ConfigDict, workdir: Path) -> None:
    """Write the features of the train and test split; a second call goes on where one stopped.

    Raises:
        UserError: data, weights, options or `workdir` are not as they should be.
    """
    check_choice("layer", config.layer, steps.FEATURE_LAYERS)
    check_choice("model.dtype", config.model.dtype, network.DTYPES)
    if config.pool < 1:
        raise UserError(f"pool={config.pool}: the features are averaged over pool x pool cells")
    run_directory = RunDirectory(workdir, config)
    if run_directory.is_finished:
        say(f"{workdir} is finished: {workdir / run_directory.read_results()['features']}")
        return
    started = time.perf_counter()
    mesh = make_mesh()
    check_batch_size("batch_size", config.batch_size, mesh)
    data = config.data
    names = {role: data[f"{role}_split"] for role in ("train", "test")}
    splits = voc.read_splits(voc.find_root(data.name, data.root), names)
    weights = sources.load(config.weights)
    preprocessing = weights.preprocessing.override(resize=data.resize, image_size=data.image_size)
    # The features are read before the head, so that any will do.
    architecture = network.architecture_for(
        weights, depth=config.model.depth, width=config.model.width, num_classes=1
    )
    model = network.make_model(architecture, config.model.dtype)
    variables = network.starting_variables(model, weights, head="zeros", seed=0)
    variables = jax.device_put(variables, replicated(mesh))
    feature_step = steps.make_feature_step(
        model, preprocessing, mesh, layer=config.layer, grid=config.pool
    )

    run_directory.begin()
    features = {}
    for role, split in splits.items():
        photos = images.decode_once(
            split.paths,
            split.ids,
            size=preprocessing.stored_size(crops=False),
            rule=preprocessing.resize,
            interpolation=preprocessing.interpolation,
            directory=fetch.cache_dir() / "images",
        )
        features[role] = extract(
            lambda batch: feature_step(variables, batch),
            photos,
            workdir / f"unfinished_{role}",
            batch_size=config.batch_size,
            sharding=by_batch(mesh),
        )
    path = workdir / f"DF_ResNet{architecture.depth}_{data.name.upper()}.npz"
    meta = {
        "weights": weights.record(preprocessing),
        "data": voc.describe(data.name, splits),
        "layer": config.layer,
        "pool": config.pool,
    }
    deep_features.write(path, features, splits, meta)
    seconds = time.perf_counter() - started
    num_photos = sum(len(split) for split in splits.values())
    run_directory.write_results(
        {
            "task": config.task,
            "variant": config.variant,
            "status": "finished",
            "features": path.name,
            "sha256": fetch.file_sha256(path),
            "num_images": {role: len(split) for role, split in splits.items()},
            "num_features": next(iter(features.values())).shape[1],
            "images_per_second": num_photos / seconds,
            "seconds": {"total": seconds},
            **meta,
        }
    )
    for role in splits:
        _remove(workdir / f"unfinished_{role}")
    say(f"{num_photos} photos, {num_photos / seconds:.1f} a second: {path}")


def extract(
    feature_step: Callable[[jax.Array], jax.Array],
    photos: np.ndarray,
    partial: Path,
    *,
    batch_size: int,
    sharding: NamedSharding,
) -> np.ndarray:
    """photos [N, H, W, 3] -> a memory map of features [N, D], from where `partial` stopped."""
    shape = (batch_size, *photos.shape[1:])
    width = jax.eval_shape(feature_step, jax.ShapeDtypeStruct(shape, np.uint8)).shape[1]
    array_path, done_path = partial.with_suffix(".npy"), partial.with_suffix(".json")
    if done_path.exists():
        features = np.load(array_path, mmap_mode="r+")
        done = json.loads(done_path.read_text())["done"]
    else:
        features = np.lib.format.open_memmap(
            array_path, mode="w+", dtype=np.float32, shape=(len(photos), width)
        )
        done = 0
    bar = tqdm(total=len(photos), initial=done, desc="deep features", unit="photo")
    unsaved = 0
    for rows, count in batches.eval_indices(len(photos), batch_size, first=done):
        outputs = feature_step(batches.put(photos[rows], sharding))
        features[rows[:count]] = np.asarray(outputs)[:count]
        done, unsaved = done + count, unsaved + 1
        bar.update(count)
        if unsaved == BATCHES_BETWEEN_SAVES or done == len(photos):
            features.flush()
            write_json(done_path, {"done": done})
            unsaved = 0
    bar.close()
    return features


def _remove(partial: Path) -> None:
    for suffix in (".json", ".npy"):
        partial.with_suffix(suffix).unlink(missing_ok=True)
