"""Exercise 4: photos -> trained network -> mAP."""

import itertools
import operator
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from vtl.data import fetch, images, voc
from vtl.errors import UserError, check_choice
from vtl.evaluation import evaluate, gallery, metrics
from vtl.records import RunDirectory, by_quantity, say, show_outcome, shown_role
from vtl.training import augment, fit, loop, optim, steps
from vtl.training.checkpoint import Checkpoints
from vtl.training.state import (
    TrainState,
    by_batch,
    check_batch_size,
    make_mesh,
    new_state,
    replicated,
)
from vtl.weights import heads, network, sources
from vtl.weights.preprocessing import TORCHVISION

MAP_PROTOCOL = "lab"
"""The protocol of the mAP by epoch, and so of the choice of the best checkpoint."""


def run(config: ConfigDict, workdir: Path) -> None:
    """Fine-tune as `config` says; the outcome is in `workdir`, and a second call goes on.

    Raises:
        UserError: data, weights, options or `workdir` are not as they should be.
    """
    _check_options(config)
    run_directory = RunDirectory(workdir, config)
    if run_directory.is_finished:
        say(f"{workdir} is finished; choose another --workdir to run again. Its outcome:")
        show_outcome(run_directory)
        return
    seconds = {"start": time.perf_counter()}
    mesh = make_mesh()
    check_batch_size("batch_size", config.batch_size, mesh)
    check_batch_size("eval_batch_size", config.eval_batch_size, mesh)

    # Who, what network, what trains.
    data = config.data
    names = {role: data[f"{role}_split"] for role in ("train", "val", "test")}
    splits = voc.read_splits(voc.find_root(data.name, data.root), names)
    train = splits["train"]
    weights = sources.load(config.weights) if config.weights else None
    own = weights.preprocessing if weights else TORCHVISION
    preprocessing = own.override(resize=data.resize, image_size=data.image_size)
    architecture = network.architecture_for(
        weights, depth=config.model.depth, width=config.model.width, num_classes=len(train.classes)
    )
    model = network.make_model(architecture, config.model.dtype)
    shapes = network.shapes_of(model)
    multipliers = optim.resolve_rules(config.optim.rules, shapes["params"])
    say(optim.rules_table(config.optim.rules, shapes["params"]))
    photos = {
        role: images.decode_once(
            split.paths,
            split.ids,
            size=preprocessing.stored_size(crops=config.augment == "crop_flip"),
            rule=preprocessing.resize,
            interpolation=preprocessing.interpolation,
            directory=fetch.cache_dir() / "images",
        )
        for role, split in splits.items()
    }
    seconds["data"] = time.perf_counter()

    # The steps.
    eval_step = steps.make_eval_step(model, preprocessing, mesh)
    known = _known_labels(train, config.data.difficult)
    num_steps = loop.count_steps(config.num_epochs, len(train), config.batch_size)
    schedule = optim.make_schedule(config.optim, num_steps)
    optimizer = optim.make_optimizer(config.optim, schedule, multipliers)
    train_step = steps.make_train_step(
        model,
        optimizer,
        multipliers,
        batch_norm=config.batch_norm,
        preprocessing=preprocessing,
        augmentation=config.augment,
        seed=config.seed,
        mesh=mesh,
    )

    def predict(step: steps.EvalStep, variables: dict, images: np.ndarray) -> tuple:
        size, whole = config.eval_batch_size, by_batch(mesh)
        return evaluate.predict(step, variables, images, batch_size=size, sharding=whole)

    def evaluate_epoch(state: TrainState) -> dict[str, float]:
        roles = ["val"] if "val" in splits else []
        roles += ["test"] if config.test_every_epoch else []
        scores = {role: predict(eval_step, state.variables, photos[role])[0] for role in roles}
        means = {role: _mean_ap(scores[role], splits[role]) for role in roles}
        return {f"{role}_map_{MAP_PROTOCOL}": v for role, v in means.items() if v is not None}

    # Where to start, and the training.
    given_head = None
    if weights and config.head_from:
        given_head = heads.load(
            config.head_from,
            classes=train.classes,
            weights_sha256=weights.sha256,
            num_features=shapes["params"]["fc"]["kernel"].shape[0],
            preprocessing=preprocessing,
        )
    run_directory.begin()
    best_by = f"val_map_{MAP_PROTOCOL}" if "val" in splits else None
    checkpoints = Checkpoints(workdir / "checkpoints", best_by=best_by)

    def first_state() -> TrainState:
        variables = network.starting_variables(model, weights, head=config.head, seed=config.seed)
        if given_head:
            variables["params"]["fc"] = given_head
        elif config.head == "probe":
            say(f"logistic regression on the features of {len(train)} photos starts the head")
            # Placed as training places them, lest the step be compiled twice.
            variables = jax.device_put(variables, replicated(mesh))
            _, features = predict(eval_step, variables, photos["train"])
            head = fit.logistic_regression(features, train.labels, known, config.head_l2)
            variables["params"]["fc"] = dict(zip(("kernel", "bias"), head, strict=True))
        return new_state(variables, optimizer)

    train_state, resumed_from = loop.start(
        first_state,
        jax.eval_shape(lambda variables: new_state(variables, optimizer), shapes),
        num_steps=num_steps,
        mesh=mesh,
        run_directory=run_directory,
        checkpoints=checkpoints,
    )
    seconds["head"] = time.perf_counter()
    train_state = loop.run(
        train_state,
        train_step,
        loop.TrainingSet(photos["train"], train.labels, known),
        num_steps=num_steps,
        batch_size=config.batch_size,
        log_every_steps=config.log_every_steps,
        seed=config.seed,
        schedule=schedule,
        mesh=mesh,
        run_directory=run_directory,
        checkpoints=checkpoints,
        evaluate=evaluate_epoch,
    )
    seconds["train"] = time.perf_counter()

    # The outcome: of the best step on val, or else of the last one.
    chosen = checkpoints.best()
    if chosen is None:
        chosen = num_steps
    elif chosen != num_steps:
        train_state = checkpoints.restore(chosen, train_state, replicated(mesh))
    checkpoints.close()
    outcome, variables = {}, train_state.variables
    for role, split in splits.items():
        scores, _ = predict(eval_step, variables, photos[role])
        run_directory.write_scores(
            role, split.ids, split.classes, scores, split.labels, split.difficult
        )
        outcome[role] = metrics.evaluate_scores(
            scores, split.labels, split.difficult, split.classes, seed=config.seed
        )
        if config.gallery_photos and role == shown_role(splits):
            choices = gallery.choose(scores, split.labels, split.difficult, config.gallery_photos)
            rows = gallery.chosen_rows(choices)
            seen = np.asarray(augment.centre_crop(photos[role][rows], preprocessing.crop_size))
            (maps,) = predict(steps.make_map_step(model, preprocessing, mesh), variables, seen)
            bias = np.asarray(variables["params"]["fc"]["bias"])
            arrays = gallery.pack(choices, seen, maps, bias) | {
                "ids": np.array(split.ids)[rows],
                "scores": scores[rows],
                "labels": split.labels[rows],
                "classes": np.array(split.classes),
            }
            run_directory.write_arrays(f"gallery_{role}", arrays)
    sources.save(
        workdir / "model.safetensors",
        variables,
        architecture,
        preprocessing,
        train.classes,
        multi_label=True,
    )
    seconds["evaluate"] = time.perf_counter()
    run_directory.write_results(
        {
            "task": "finetune",
            "variant": config.variant,
            "status": "finished",
            "classes": list(train.classes),
            **by_quantity(outcome),
            "chosen_step": chosen,
            "resumed_from": resumed_from,
            "trainable_parameters": optim.count_trainable(multipliers, shapes["params"]),
            "images_per_second": run_directory.last_metric("images_per_second"),
            "seconds": _phases(seconds),
            "seed": config.seed,
            "weights": weights.record(preprocessing) if weights else None,
            "data": voc.describe(data.name, splits),
        }
    )
    show_outcome(run_directory)


def _check_options(config: ConfigDict) -> None:
    check_choice("augment", config.augment, augment.KINDS)
    check_choice("batch_norm", config.batch_norm, ("frozen", "batch"))
    check_choice("data.difficult", config.data.difficult, ("ignore", "negative"))
    check_choice("model.dtype", config.model.dtype, network.DTYPES)
    check_choice("head", config.head, network.HEADS)
    least = {"seed": 0, "num_epochs": 0, "log_every_steps": 1, "data.image_size": 0}
    least |= {"gallery_photos": 0}
    for option, value in least.items():
        found = operator.attrgetter(option)(config)
        if found < value:
            raise UserError(f"{option}={found}: the least possible is {value}")
    if config.data.resize:
        check_choice("data.resize", config.data.resize, images.RULES)
    if not config.weights and (config.head in ("probe", "keep") or config.head_from):
        raise UserError(
            "without weights there are no features for head=probe, head=keep or head_from: choose "
            "head=random or zeros"
        )


def _known_labels(split: voc.Split, difficult: str) -> np.ndarray:
    """The labels [N, C] that count in the loss."""
    return 1 - split.difficult if difficult == "ignore" else np.ones_like(split.labels)


def _mean_ap(scores: np.ndarray, split: voc.Split) -> float | None:
    result = metrics.evaluate_scores(
        scores, split.labels, split.difficult, split.classes, num_resamples=0
    )
    return result["map"][MAP_PROTOCOL]


def _phases(marks: dict[str, float]) -> dict[str, float]:
    """Seconds between successive marks, under the name of the later one, and in total."""
    names = list(marks)
    phases = {b: marks[b] - marks[a] for a, b in itertools.pairwise(names)}
    return phases | {"total": marks[names[-1]] - marks[names[0]]}
