"""A config -> what a fine-tuning needs: its photos, its network and its job."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vtl import identity, knobs
from vtl.console import say
from vtl.data import prepare
from vtl.data.prepare import Prepared
from vtl.data.split import Split
from vtl.data.splits import of_config, table_of_counts
from vtl.errors import UserError, check_choice
from vtl.evaluation import thresholds
from vtl.files import user_path
from vtl.finetuning import mixtures
from vtl.finetuning.job import Job, training_set_of
from vtl.run_directory import RunDirectory
from vtl.training import augment, losses, optim
from vtl.training.loop import TrainingSet
from vtl.training.state import check_batch_sizes, make_mesh
from vtl.untrusted import plain_sha256
from vtl.weights import heads, network, sources


class SetUp(NamedTuple):
    """What `set_up` finds; `content` is what the run is made of, by hash."""

    job: Job
    prepared: Prepared
    training_set: TrainingSet
    content: dict[str, Any]


def set_up(config: ConfigDict, run_directory: RunDirectory) -> SetUp:
    """Read and decode the photos and load the network, saying what they are.

    Raises:
        UserError: data, weights or an option is invalid, or the directory's run was begun with
            other content.
    """
    mesh = make_mesh()
    check_batch_sizes({name: config[name] for name in ("batch_size", "eval_batch_size")}, mesh)
    splits = of_config(config.data)
    can_choose = "val" in splits or config.held_out > 0
    mixtures.check(config.mix_with_start, keep=config.keep, can_choose=can_choose)
    say(table_of_counts(splits))
    net, given_head = _network_and_head(config, splits["train"].classes)
    params = network.shapes_of(net.model)["params"]
    rules = optim.spelled_out(config.optim.rules, net.architecture.last_stage)
    multipliers = optim.resolve_rules(rules, params)
    say(f"{net.architecture.title}, weights: {config.weights or 'random'}")
    say(f"the head sees {network.describe_head(net.architecture)}")
    say(optim.rules_table(rules, params))
    _loss(config, splits)  # which refuses what the labels don't allow
    content = _content(config, splits, net)
    # Before the photos are decoded, which takes long.
    run_directory.compare(content, lambda: splits)
    prepared = prepare.prepare(
        splits, net.preprocessing, config.data, crops=config.augment == "crop_flip"
    )
    training_set, objective = _training(config, prepared)
    job = Job(config, net, given_head, multipliers, mesh, objective)
    content["data"] |= identity.of_photos(prepared.splits)
    return SetUp(job, prepared, training_set, content)


def subset(whole: SetUp, rows: np.ndarray) -> SetUp:
    """The same with some rows of train alone."""
    job, prepared = whole.job, whole.prepared
    images, train = prepared.photos["train"].rows(rows), prepared.splits["train"].rows(rows)
    prepared = dataclasses.replace(
        prepared,
        photos=prepared.photos | {"train": images},
        splits=prepared.splits | {"train": train},
    )
    training_set, objective = _training(job.config, prepared)
    if job.config.class_weights != "none":  # else the job's compiled steps stay as they are
        job = dataclasses.replace(job, objective=objective)
    content = whole.content | {"data": whole.content["data"] | identity.of_photos(prepared.splits)}
    return SetUp(job, prepared, training_set, content)


def _loss(config: ConfigDict, splits: Mapping[str, Split]) -> str:
    return losses.loss_of(
        config.loss, one_label_each=all(split.has_one_label_each for split in splits.values())
    )


def _training(config: ConfigDict, prepared: Prepared) -> tuple[TrainingSet, losses.Objective]:
    """What is trained on, and the loss, whose class weights go by it."""
    loss, train = _loss(config, prepared.splits), prepared.splits["train"]
    training_set = training_set_of(prepared.photos["train"], train, config.data.difficult)
    class_weights = losses.class_weights_of(
        config.class_weights, loss, training_set.labels, training_set.label_mask
    )
    return training_set, losses.objective(loss, class_weights)


def check_options(config: ConfigDict) -> None:
    """Raise UserError if a knob of fine-tuning has a value that it can't have."""
    knobs.check(config)
    prepare.check_options(config.data)
    check_choice("augment", config.augment, augment.KINDS)
    check_choice("batch_norm", config.batch_norm, ("frozen", "batch"))
    check_choice("data.difficult", config.data.difficult, ("ignore", "negative"))
    check_choice("head", config.head, network.HEADS)
    check_choice("keep", config.keep, ("best", "last"))
    check_choice("loss", config.loss, ("", *losses.NAMES))
    check_choice("class_weights", config.class_weights, losses.CLASS_WEIGHTS)
    thresholds.check_rule(config.thresholds)
    if config.head_from and config.head == "keep":
        raise UserError("head=keep and head_from name two heads: choose one")
    if not config.weights and (config.head in ("probe", "keep") or config.head_from):
        raise UserError(
            "without weights there are no features for head=probe, head=keep or head_from: "
            "choose head=random or head=zeros"
        )


def content_by_path(
    config: ConfigDict, splits: Callable[[], Mapping[str, Split]]
) -> dict[str, Any]:
    """Of what the run is made of, by hash, what a path of the config names.

    `splits` are those of the config. What vtl fetched was checked by its hash.
    """
    content = _head(config)
    if config.data.root:
        content |= {"data": identity.of_splits(splits())}
    if config.weights and config.weights not in sources.SOURCES:
        content |= {"weights": sources.load(config.weights).sha256}
    return content


def _content(
    config: ConfigDict, splits: Mapping[str, Split], net: network.Network
) -> dict[str, Any]:
    """What the run is made of, by hash."""
    content = {"data": identity.of_splits(splits)} | _head(config)
    if net.weights:
        content |= {
            "weights": net.weights.sha256,
            "preprocessing": identity.json_sha256(dataclasses.asdict(net.preprocessing)),
        }
    return content


def _head(config: ConfigDict) -> dict[str, Any]:
    if not config.head_from:
        return {}
    return {"head_from": plain_sha256(user_path(config.head_from) / heads.FILE_NAME)}


def _network_and_head(
    config: ConfigDict, classes: tuple[str, ...]
) -> tuple[network.Network, heads.Head | None]:
    """The network of the config, and the head that `head_from` or head=keep names, by `classes`.

    Such a head says itself what it sees.
    """
    net, given = network.from_config(config, len(classes)), None
    if config.batch_norm == "batch" and net.architecture.batch_norm_epsilon is None:
        raise UserError(
            f"batch_norm=batch: a {net.architecture.title} has no BatchNorm\nleave it at frozen"
        )
    if config.augment == "crop_flip" and net.preprocessing.resize == "squash":
        # Photos are stored larger than random crops, and scored by their centre.
        pixels = dataclasses.replace(net.preprocessing, resize="squash_crop")
        net = net._replace(preprocessing=pixels)
    if net.weights and config.head_from:
        given = heads.load(
            config.head_from,
            classes=classes,
            weights_sha256=net.weights.sha256,
            architecture=net.architecture,
            preprocessing=net.preprocessing,
        )
    elif net.weights and config.head == "keep":
        given = heads.keep(net.weights, classes)
    sees = given or config
    net = network.with_head(
        net, pooling=sees.pooling, transform=sees.transform, regions=sees.regions
    )
    return net, given
