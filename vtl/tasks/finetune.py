"""Exercise 4: photos -> trained network -> mAP."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vtl import identity, knobs
from vtl.console import say
from vtl.data import prepare
from vtl.data.batches import Images
from vtl.data.split import Split, describe_splits
from vtl.data.splits import name_of, of_config, table_of_counts
from vtl.errors import UserError, check_choice
from vtl.evaluation import gallery, outcome, thresholds
from vtl.evaluation.outcome import MAP_PROTOCOL
from vtl.files import user_path
from vtl.finetuning import mixtures, trial, unseen
from vtl.finetuning.job import Job, checkpoints_of, training_set_of
from vtl.models import HEAD
from vtl.models.architecture import in_results
from vtl.run_directory import RunDirectory
from vtl.training import augment, losses, optim, steps
from vtl.training.checkpoint import Checkpoints
from vtl.training.state import TrainState, check_batch_sizes, make_mesh
from vtl.untrusted import plain_sha256
from vtl.weights import heads, network, sources


def run(config: ConfigDict, workdir: Path) -> None:
    """Fine-tune and leave the outcome in `workdir`; a second call resumes.

    Raises:
        UserError: data, weights or an option is invalid, or `workdir` holds something else.
    """
    _check_options(config)
    run_directory = RunDirectory(workdir, config)
    if outcome.was_finished(run_directory, lambda: _content_by_path(config)):
        return
    seconds = {"start": time.perf_counter()}
    mesh = make_mesh()
    check_batch_sizes({name: config[name] for name in ("batch_size", "eval_batch_size")}, mesh)

    # Which photos, which network, what trains.
    splits = of_config(config.data)
    train = splits["train"]
    can_choose = "val" in splits or config.held_out > 0
    mixtures.check(config.mix_with_start, keep=config.keep, can_choose=can_choose)
    say(table_of_counts(splits))
    net, given_head = _network_and_head(config, train.classes)
    params = network.shapes_of(net.model)["params"]
    rules = optim.spelled_out(config.optim.rules, net.architecture.last_stage)
    multipliers = optim.resolve_rules(rules, params)
    say(f"{net.architecture.title}, weights: {config.weights or 'random'}")
    say(f"the head sees {network.describe_head(net.architecture)}")
    say(optim.rules_table(rules, params))
    loss = losses.loss_of(
        config.loss, one_label_each=all(split.has_one_label_each for split in splits.values())
    )
    content = _content(config, splits, net)
    run_directory.compare(content)  # before the photos are decoded, which takes long
    prepared = prepare.prepare(
        splits, net.preprocessing, config.data, crops=config.augment == "crop_flip"
    )
    splits, photos, train = prepared.splits, prepared.photos, prepared.splits["train"]
    training_set = training_set_of(photos["train"], train, config.data.difficult)
    class_weights = losses.class_weights_of(
        config.class_weights, loss, training_set.labels, training_set.label_mask
    )
    objective = losses.objective(loss, class_weights)
    job = Job(config, net, given_head, multipliers, mesh, objective)
    content["data"] |= identity.of_photos(splits)
    seconds["data"] = time.perf_counter()

    # How far to train.
    plan, parts, tried = job.plan(len(train)), None, None
    if config.held_out and config.keep == "best" and "val" not in splits and plan.num_steps:
        parts = trial.parts_of(job, photos["train"], train)
    run_directory.begin(content)
    prepared.write(workdir)
    if parts:
        tried = trial.run(job, photos["train"], train, parts, content, workdir)
        share = tried["best_step"] / tried["num_steps"]
        plan = dataclasses.replace(plan, num_steps=round(share * plan.num_steps))
    seconds["held_out"] = time.perf_counter()

    # The training.
    checkpoints = checkpoints_of(
        run_directory, mixtures.BEST if "val" in splits and config.keep == "best" else None
    )
    scores_start = job.starts_fitted and plan.num_steps > 0
    start = job.start(training_set)
    score_epoch = functools.partial(
        _score_epoch, job, splits, photos, scores_start, start, run_directory
    )
    train_state, resumed_from = job.train(
        start, training_set, plan, run_directory, checkpoints, score_epoch
    )
    seconds["train"] = time.perf_counter()

    # The outcome.
    train_state = _chosen(checkpoints, train_state, mesh)
    variables, mix, trained = train_state.variables, mixtures.TRAINED, {}
    if config.mix_with_start and int(train_state.step):
        mix = _chosen_mix(run_directory, splits, tried, int(train_state.step))
    if mix != mixtures.TRAINED:
        trained = _maps(job, splits, photos, ("val", "test"), variables)
        variables = mixtures.mixture(start(), variables, mix, mesh)
    logits = {role: job.logits(variables, photos[role]) for role in splits}
    one_label_each = objective.has_one_label_each
    is_start = int(train_state.step) == 0
    decisions, chosen = unseen.decide(
        job, splits, logits, training_set, parts, tried, is_start=is_start, workdir=workdir
    )
    quantities = outcome.score_splits(
        run_directory,
        logits,
        splits,
        train.classes,
        config.seed,
        one_label_each=one_label_each,
        decisions=decisions,
    )
    if config.gallery_photos:
        role = outcome.headline_split(splits)
        arrays = _gallery(job, splits[role], logits[role], photos[role], variables)
        if arrays:
            run_directory.write_arrays(f"gallery_{role}", arrays)
    network.save(
        workdir / "model.safetensors",
        variables,
        net,
        train.classes,
        multi_label=not one_label_each,
        decisions=decisions,
    )
    seconds["evaluate"] = time.perf_counter()
    run_directory.write_results(
        {
            "classes": list(train.classes),
            **quantities,
            "decisions": chosen,
            "chosen_step": int(train_state.step),
            **({"chosen_mix": mix, "trained": trained} if config.mix_with_start else {}),
            "resumed_from": resumed_from,
            "start": _start(run_directory) if config.num_epochs else None,
            "held_out": tried,
            "trainable_parameters": optim.count_trainable(multipliers, params),
            "images_per_second": run_directory.last_metric("images_per_second"),
            "seconds": _phases(seconds),
            "network": in_results(net.architecture),
            "weights": net.weights.record(net.preprocessing) if net.weights else None,
            "data": describe_splits(name_of(config.data), splits) | prepared.record(),
        }
    )
    outcome.show_outcome(run_directory)


def _check_options(config: ConfigDict) -> None:
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


def _content_by_path(config: ConfigDict) -> dict[str, Any]:
    """Of `_content`, what a path of the config names: what vtl fetched was checked by its hash."""
    content = _head(config)
    if config.data.root:
        content |= {"data": identity.of_splits(of_config(config.data))}
    if config.weights and config.weights not in sources.SOURCES:
        content |= {"weights": sources.load(config.weights).sha256}
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


def _score_epoch(
    job: Job,
    splits: Mapping[str, Split],
    photos: Mapping[str, Images],
    scores_start: bool,
    start: Callable[[], Any],
    run_directory: RunDirectory,
    state: TrainState,
) -> dict[str, float]:
    """The scores of the val split and, if the config asks for it or it is the start's, of test."""
    scores_test = job.config.test_every_epoch or (scores_start and int(state.step) == 0)
    scores: dict[str, float] = {}
    if "val" in splits:
        before = mixtures.loss_before(run_directory)
        scores, _ = mixtures.score(job, start, state, photos["val"], splits["val"], before)
    if scores_test:
        on_test = _maps(job, splits, photos, ("test",), state.variables)
        scores |= {f"{role}_map_{MAP_PROTOCOL}": mean_ap for role, mean_ap in on_test.items()}
    return scores


def _maps(
    job: Job,
    splits: Mapping[str, Split],
    photos: Mapping[str, Images],
    roles: Sequence[str],
    variables: Any,
) -> dict[str, float]:
    """The mAP of each of the roles that is a split, and has a class with a positive."""
    there = [role for role in roles if role in splits]
    maps = {role: job.mean_ap(variables, photos[role], splits[role]) for role in there}
    return {role: mean_ap for role, mean_ap in maps.items() if mean_ap is not None}


def _chosen_mix(
    run_directory: RunDirectory,
    splits: Mapping[str, Split],
    tried: Mapping[str, Any] | None,
    step: int,
) -> float:
    """The weight of the trained state in the best mixture, by val or by the trial's photos."""
    if "val" in splits:
        return mixtures.chosen_on_val(run_directory, step)
    return (tried or {}).get("best_mix", mixtures.TRAINED)


def _start(run_directory: RunDirectory) -> dict[str, float]:
    """The mAP of each split that was scored before the first step; metrics.jsonl has it."""
    first = next((line for line in run_directory.read_metrics() if line["step"] == 0), {})
    names = {role: f"{role}_map_{MAP_PROTOCOL}" for role in ("val", "test")}
    return {role: first[name] for role, name in names.items() if name in first}


def _chosen(checkpoints: Checkpoints, last: TrainState, mesh: Mesh) -> TrainState:
    """The best state by the val split, or the last one if there is no val split."""
    chosen, best = last, checkpoints.best()
    if best is not None and best != int(last.step):
        chosen = checkpoints.restore(best, last, mesh)
    checkpoints.close()
    return chosen


def _gallery(
    job: Job, split: Split, logits: np.ndarray, photos: Images, variables: Any
) -> dict[str, np.ndarray]:
    """What gallery_SPLIT.npz holds: the chosen photos, and each class's activation maps."""
    net = job.net
    labels = np.asarray(split.labels)
    # Neither a hit nor a false alarm where it is not known what is there.
    is_no_alarm = split.difficult | (1 - split.label_mask)
    choices = gallery.choose(
        logits, labels * split.label_mask, is_no_alarm, job.config.gallery_photos
    )
    if not choices:  # nothing is known
        return {}
    rows = gallery.chosen_rows(choices)
    known = split.label_mask[rows]
    size = net.preprocessing.crop_size
    crops = np.asarray(augment.centre_crop(jnp.asarray(photos[rows]), size))
    map_step = steps.make_map_step(net.model, net.preprocessing, job.mesh)
    (maps,) = job.predict(map_step, variables, crops)
    return gallery.pack(choices, crops, maps, np.asarray(variables["params"][HEAD]["bias"])) | {
        "ids": np.array(split.ids)[rows],
        "scores": outcome.scores_of(logits[rows], one_label_each=job.objective.has_one_label_each),
        "labels": labels[rows],
        "classes": np.array(split.classes),
        **({} if known.all() else {"label_mask": known}),
    }


def _phases(marks: dict[str, float]) -> dict[str, float]:
    """The seconds between successive marks, under the later one's name, and in total."""
    names = list(marks)
    phases = {later: marks[later] - marks[earlier] for earlier, later in itertools.pairwise(names)}
    return phases | {"total": marks[names[-1]] - marks[names[0]]}
