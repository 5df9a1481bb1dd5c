"""Exercise 2: photos -> deep features -> .npz."""

import dataclasses
import functools
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vtl import dtypes, files, identity, knobs, processes
from vtl.console import format_seconds, say
from vtl.data import deep_features, prepare
from vtl.data.split import Split, describe_splits
from vtl.data.splits import file_label, name_of, of_config, table_of_counts
from vtl.errors import UserError, check_choice
from vtl.evaluation import outcome
from vtl.features import shards
from vtl.features.extract import extract, remove_unfinished
from vtl.models.architecture import Architecture, in_results
from vtl.models.head import TOKEN_POOLINGS
from vtl.run_directory import RunDirectory, begun_with
from vtl.training import steps
from vtl.training.state import by_batch, check_batch_sizes, make_mesh, replicate
from vtl.weights import network, sources


def run(config: ConfigDict, workdir: Path) -> None:
    """Write the features of the train and test split; a second call resumes.

    Those of a shard get a directory of their own below `workdir`.

    Raises:
        UserError: data, weights or an option is invalid, or `workdir` holds something else.
    """
    _check_options(config)
    shard = shards.take(config)
    begun = shard.begun(workdir) if shard else workdir
    prepare.settle_decode(config.data, begun_with(begun, "data.decode"))
    config.model.dtype = dtypes.settled(config.model.dtype, begun_with(begun, "model.dtype"))
    workdir = workdir / shard.name if shard else workdir
    run_directory = RunDirectory(workdir, config)
    now = functools.cache(lambda: of_config(config.data))
    by_path = functools.partial(_content_by_path, config, now)
    if outcome.was_finished(run_directory, by_path, _format_outcome, now):
        if processes.is_first():
            remove_unfinished(workdir)
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
    say(f"{net.architecture.title}, weights: {config.weights}")
    layer, pooling = _seen(config, net.architecture)
    feature_step = steps.make_feature_step(
        net.model,
        net.preprocessing,
        mesh,
        layer="" if layer == net.architecture.stages[-1] else layer,
        grid=config.pool,
        pooling=pooling,
    )
    content: dict[str, Any] = {
        "data": identity.of_splits(splits),
        "weights": weights.sha256,
        "preprocessing": identity.json_sha256(dataclasses.asdict(net.preprocessing)),
    }
    run_directory.compare(
        content, lambda: splits
    )  # before the photos are decoded, which takes long
    variables = network.starting_variables(net.model, weights, head="zeros", seed=0)
    variables = replicate(variables, mesh)
    of_shard = {}
    if shard:
        of_shard = {"shard": shard.record(splits, config.batch_size)}
        splits = shard.part_of(splits, config.batch_size)
        counts = " and ".join(f"{len(its):,} photos of {role}" for role, its in splits.items())
        say(f"shard {shard}: {counts}; nobody looks for duplicates")
    prepared = prepare.prepare(
        splits, net.preprocessing, config.data, crops=False, is_shard=bool(shard)
    )
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
    if not processes.is_first():
        return
    if not shard:  # a probe compares what is joined
        prepared = prepared.with_features(features)
        prepared.write(workdir)
    label = f"{file_label(config.data)}_{shard.name}" if shard else file_label(config.data)
    path = workdir / f"DF_{_short(net.architecture)}_{label}.npz"
    meta = {
        "weights": weights.record(net.preprocessing),
        "data": describe_splits(name_of(config.data), splits) | prepared.record(),
        "layer": layer,
        "pool": config.pool,
        "pooling": pooling,
        **of_shard,
    }
    deep_features.write(path, features, splits, meta)
    seconds = time.perf_counter() - started
    rate = num_extracted / seconds if num_extracted else None
    run_directory.write_results(
        {
            "network": in_results(net.architecture),
            "features": path.name,
            "sha256": files.file_sha256(path),
            "num_images": {role: len(split) for role, split in splits.items()},
            "num_features": next(iter(features.values())).shape[1],
            "images_per_second": rate,
            "seconds": {"total": seconds},
            **meta,
        }
    )
    remove_unfinished(workdir)
    say(f"{num_extracted} photos in {format_seconds(seconds)}: {path}")


def _check_options(config: ConfigDict) -> None:
    knobs.check(config)
    prepare.check_options(config.data)
    for role in ("train_split", "test_split"):
        if not config.data[role]:
            raise UserError(f"data.{role} is empty: name a split of the data, such as trainval")


def _seen(config: ConfigDict, architecture: Architecture) -> tuple[str, str]:
    """The stage, and what is taken of it; empty knobs are what the network's head sees."""
    last = architecture.stages[-1]
    layer = config.layer or last
    check_choice("layer", layer, architecture.stages)
    plain = architecture.plain_pooling if layer == last else "average"
    pooling = config.pooling or plain
    check_choice("pooling", pooling, architecture.poolings)
    if pooling in TOKEN_POOLINGS and layer != last:
        raise UserError(f"pooling={pooling} is of the last stage: choose layer={last}")
    return layer, pooling


def _short(architecture: Architecture) -> str:
    """`ResNet50`, of whatever width."""
    return re.sub(r"\W", "", architecture.title.split()[0])


def _content_by_path(
    config: ConfigDict, splits: Callable[[], Mapping[str, Split]]
) -> dict[str, Any]:
    """Of what the run is made of, by hash, what a path of the config names."""
    content: dict[str, Any] = {}
    if config.data.root:
        content |= {"data": identity.of_splits(splits())}
    if config.weights not in sources.SOURCES:
        content |= {"weights": sources.load(config.weights).sha256}
    return content


def _format_outcome(run_directory: RunDirectory, results: dict[str, Any]) -> str:
    return str(run_directory.path / results["features"])
