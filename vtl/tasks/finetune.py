"""Exercise 4: photos -> trained network -> mAP."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vtl import identity, knobs
from vtl.console import say
from vtl.data import images, readers
from vtl.data.batches import Images
from vtl.data.splits import Split, describe_splits
from vtl.errors import UserError, check_choice
from vtl.evaluation import evaluate, gallery, metrics, outcome
from vtl.files import user_path
from vtl.models import HEAD
from vtl.run_directory import RunDirectory
from vtl.training import augment, fit_linear, loop, optim, steps
from vtl.training.checkpoint import Checkpoints
from vtl.training.state import (
    TrainState,
    by_batch,
    check_batch_sizes,
    make_mesh,
    new_state,
    replicated,
)
from vtl.untrusted import plain_sha256
from vtl.weights import heads, network, sources

MAP_PROTOCOL = "lab"
"""The protocol of each epoch's mAP, by which the best checkpoint is chosen."""

Predict = Callable[[steps.EvalStep, Any, Images], tuple[np.ndarray, ...]]
"""`evaluate.predict` of a run's batch size and sharding: (step, variables, images) -> arrays."""


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
    splits = readers.read(config.data)
    train = splits["train"]
    net = network.from_config(config, len(train.classes))
    given_head = _given_head(config, net, train.classes)
    params = network.shapes_of(net.model)["params"]
    multipliers = optim.resolve_rules(config.optim.rules, params)
    say(f"{network.describe(net.architecture)}, weights: {config.weights or 'random'}")
    say(optim.rules_table(config.optim.rules, params))
    content = _content(config, splits, net)
    run_directory.compare(content)  # before the photos are decoded, which takes long
    photos = images.decode_splits(splits, net.preprocessing, crops=config.augment == "crop_flip")
    label_mask = _label_mask(train, config.data.difficult)
    training_set = loop.TrainingSet(photos["train"], train.labels, label_mask)
    seconds["data"] = time.perf_counter()

    # The steps.
    plan = loop.make_plan(config, num_images=len(train), num_epochs=config.num_epochs, mesh=mesh)
    optimizer = optim.make_optimizer(config.optim, plan.learning_rate, multipliers)
    train_step = _train_step(config, net, optimizer, multipliers, mesh)
    eval_step = steps.make_eval_step(net.model, net.preprocessing, mesh)
    predict: Predict = functools.partial(
        evaluate.predict, batch_size=config.eval_batch_size, sharding=by_batch(mesh)
    )

    def predict_logits(variables: Any, role: str) -> np.ndarray:  # [N, C]
        return predict(eval_step, variables, photos[role])[0]

    def train_features(variables: Any) -> np.ndarray:
        # Placed as training places them, so that the step is compiled only once.
        placed = jax.device_put(variables, replicated(mesh))
        return predict(eval_step, placed, photos["train"])[1]

    def first_state() -> TrainState:
        variables = network.starting_variables(
            net.model, net.weights, head=config.head, seed=config.seed
        )
        if given_head:
            variables["params"][HEAD] = given_head
        elif config.head == "probe":
            say(f"logistic regression on the features of {len(train)} photos starts the head")
            variables["params"][HEAD] = fit_linear.logistic_regression(
                train_features(variables), train.labels, label_mask, config.head_l2
            )._asdict()
        return new_state(variables, optimizer)

    # The training.
    run_directory.begin(content)
    best_by = f"val_map_{MAP_PROTOCOL}" if "val" in splits else None
    checkpoints = Checkpoints(workdir / "checkpoints", best_by=best_by, run=run_directory.run_id)
    like = jax.eval_shape(lambda v: new_state(v, optimizer), network.shapes_of(net.model))
    train_state, resumed_from = loop.start(first_state, like, plan, run_directory, checkpoints)
    seconds["head"] = time.perf_counter()
    score_epoch = functools.partial(_score_epoch, config, splits, predict_logits)
    train_state = loop.run(
        train_state, train_step, training_set, plan, run_directory, checkpoints, score_epoch
    )
    seconds["train"] = time.perf_counter()

    # The outcome.
    train_state = _chosen(checkpoints, train_state, mesh)
    variables = train_state.variables
    logits = {role: predict_logits(variables, role) for role in splits}
    quantities = outcome.score_splits(run_directory, logits, splits, train.classes, config.seed)
    if config.gallery_photos:
        role = outcome.headline_split(splits)
        arrays = _gallery(config, net, splits[role], logits[role], photos[role], variables, predict)
        run_directory.write_arrays(f"gallery_{role}", arrays)
    network.save(workdir / "model.safetensors", variables, net, train.classes, multi_label=True)
    seconds["evaluate"] = time.perf_counter()
    run_directory.write_results(
        {
            "classes": list(train.classes),
            **quantities,
            "chosen_step": int(train_state.step),
            "resumed_from": resumed_from,
            "trainable_parameters": optim.count_trainable(multipliers, params),
            "images_per_second": run_directory.last_metric("images_per_second"),
            "seconds": _phases(seconds),
            "network": dataclasses.asdict(net.architecture),
            "weights": net.weights.record(net.preprocessing) if net.weights else None,
            "data": describe_splits(config.data.name, splits),
        }
    )
    outcome.show_outcome(run_directory)


def _check_options(config: ConfigDict) -> None:
    knobs.check(config)
    check_choice("augment", config.augment, augment.KINDS)
    check_choice("batch_norm", config.batch_norm, ("frozen", "batch"))
    check_choice("data.difficult", config.data.difficult, ("ignore", "negative"))
    check_choice("head", config.head, network.HEADS)
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
        content |= {"data": identity.of_splits(readers.read(config.data))}
    if config.weights and config.weights not in sources.SOURCES:
        content |= {"weights": sources.load(config.weights).sha256}
    return content


def _head(config: ConfigDict) -> dict[str, Any]:
    if not config.head_from:
        return {}
    return {"head_from": plain_sha256(user_path(config.head_from) / heads.FILE_NAME)}


def _label_mask(split: Split, difficult: str) -> np.ndarray:
    """Which labels [N, C] count in the loss."""
    return 1 - split.difficult if difficult == "ignore" else np.ones_like(split.labels)


def _given_head(
    config: ConfigDict, net: network.Network, classes: tuple[str, ...]
) -> dict[str, np.ndarray] | None:
    """The params of the head that `head_from` or head=keep names, its columns by `classes`."""
    if net.weights is None:
        return None
    if not config.head_from:
        return heads.keep(net.weights, classes) if config.head == "keep" else None
    return heads.load(
        config.head_from,
        classes=classes,
        weights_sha256=net.weights.sha256,
        num_features=network.shapes_of(net.model)["params"][HEAD]["kernel"].shape[0],
        preprocessing=net.preprocessing,
    )


def _train_step(
    config: ConfigDict,
    net: network.Network,
    optimizer: optax.GradientTransformation,
    multipliers: optim.Multipliers,
    mesh: Mesh,
) -> steps.TrainStep:
    return steps.make_train_step(
        net.model,
        optimizer,
        multipliers,
        batch_norm=config.batch_norm,
        preprocessing=net.preprocessing,
        augmentation=config.augment,
        seed=config.seed,
        mesh=mesh,
    )


def _score_epoch(
    config: ConfigDict,
    splits: Mapping[str, Split],
    predict_logits: Callable[[Any, str], np.ndarray],
    state: TrainState,
) -> dict[str, float]:
    """The mAP of the val split and, if the config asks for it, of test."""
    roles = [role for role in ("val", "test") if role in splits]
    if not config.test_every_epoch:
        roles = [role for role in roles if role != "test"]
    scores = {}
    for role in roles:
        mean_ap = _mean_ap(predict_logits(state.variables, role), splits[role])
        if mean_ap is not None:
            scores[f"{role}_map_{MAP_PROTOCOL}"] = mean_ap
    return scores


def _mean_ap(logits: np.ndarray, split: Split) -> float | None:
    return metrics.mean_average_precision(
        logits, split.labels, split.difficult, split.classes, MAP_PROTOCOL
    )


def _chosen(checkpoints: Checkpoints, last: TrainState, mesh: Mesh) -> TrainState:
    """The best state by the val split, or the last one if there is no val split."""
    chosen, best = last, checkpoints.best()
    if best is not None and best != int(last.step):
        chosen = checkpoints.restore(best, last, replicated(mesh))
    checkpoints.close()
    return chosen


def _gallery(
    config: ConfigDict,
    net: network.Network,
    split: Split,
    logits: np.ndarray,
    photos: Any,  # as Images
    variables: Any,
    predict: Predict,
) -> dict[str, np.ndarray]:
    """What gallery_SPLIT.npz holds: the chosen photos, and each class's activation maps."""
    choices = gallery.choose(logits, split.labels, split.difficult, config.gallery_photos)
    rows = gallery.chosen_rows(choices)
    crops = np.asarray(augment.centre_crop(photos[rows], net.preprocessing.crop_size))
    map_step = steps.make_map_step(net.model, net.preprocessing, make_mesh())
    (maps,) = predict(map_step, variables, crops)
    return gallery.pack(choices, crops, maps, np.asarray(variables["params"][HEAD]["bias"])) | {
        "ids": np.array(split.ids)[rows],
        "scores": outcome.probabilities(logits[rows]),
        "labels": split.labels[rows],
        "classes": np.array(split.classes),
    }


def _phases(marks: dict[str, float]) -> dict[str, float]:
    """The seconds between successive marks, under the later one's name, and in total."""
    names = list(marks)
    phases = {later: marks[later] - marks[earlier] for earlier, later in itertools.pairwise(names)}
    return phases | {"total": marks[names[-1]] - marks[names[0]]}
