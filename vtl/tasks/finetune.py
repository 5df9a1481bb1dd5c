"""Exercise 4: photos -> trained network -> mAP."""

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from vtl.data import fetch, images, voc
from vtl.errors import UserError, check_choice
from vtl.evaluation import evaluate, metrics
from vtl.models.resnet import EPSILON, ResNet
from vtl.records import RunDirectory, by_quantity, say, show_outcome
from vtl.training import augment, fit, loop, optim, steps
from vtl.training.checkpoint import Checkpoints
from vtl.training.state import TrainState, by_batch, check_batch_size, make_mesh, replicated
from vtl.weights import convert, sources
from vtl.weights.preprocessing import TORCHVISION, Preprocessing

HEADS = ("probe", "zeros", "random", "keep")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
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
        show_outcome(run_directory.read_results())
        return
    seconds = {"start": time.perf_counter()}
    mesh = make_mesh()
    check_batch_size("batch_size", config.batch_size, mesh)
    check_batch_size("eval_batch_size", config.eval_batch_size, mesh)

    # Who, what network, what trains.
    splits = _read_splits(config.data)
    train = splits["train"]
    weights = sources.load(config.weights) if config.weights else None
    preprocessing = _preprocessing(config.data, weights)
    architecture = _architecture(config, weights, num_classes=len(train.classes))
    model = _make_model(architecture, config.model.dtype)
    shapes = jax.eval_shape(lambda: _initialise(model, config.seed))
    multipliers = optim.resolve_rules(config.optim.rules, shapes["params"])
    say(optim.rules_table(config.optim.rules, shapes["params"]))
    photos = _decode(splits, config, preprocessing)
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

    def predict(variables: dict, role: str) -> tuple[np.ndarray, np.ndarray]:
        return evaluate.predict(
            eval_step,
            variables,
            photos[role],
            batch_size=config.eval_batch_size,
            sharding=by_batch(mesh),
        )

    def evaluate_epoch(state: TrainState) -> dict[str, float]:
        roles = ["val"] if "val" in splits else []
        roles += ["test"] if config.test_every_epoch else []
        scores = {role: predict(state.variables, role)[0] for role in roles}
        means = {role: _mean_ap(scores[role], splits[role]) for role in roles}
        return {f"{role}_map_{MAP_PROTOCOL}": v for role, v in means.items() if v is not None}

    # Where to start, and the training.
    run_directory.begin()
    checkpoints = Checkpoints(workdir / "checkpoints", best_by=f"val_map_{MAP_PROTOCOL}")
    resumed_from = checkpoints.latest()
    if resumed_from is None:
        variables = _start(config, model, weights, shapes)
        if config.head == "probe":
            say(f"logistic regression on the features of {len(train)} photos starts the head")
            _, features = predict(variables, "train")
            head = fit.logistic_regression(features, train.labels, known, config.head_l2)
            variables["params"]["fc"] = dict(zip(("kernel", "bias"), head, strict=True))
        train_state = jax.device_put(_new_state(variables, optimizer), replicated(mesh))
    else:
        say(f"going on from step {resumed_from} of {num_steps}")
        train_state = jax.eval_shape(lambda: _new_state(_initialise(model, config.seed), optimizer))
        train_state = checkpoints.restore(resumed_from, train_state, replicated(mesh))
    run_directory.cut_metrics(resumed_from or 0)
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
    chosen = (checkpoints.best() if "val" in splits else None) or num_steps
    if chosen != num_steps:
        train_state = checkpoints.restore(chosen, train_state, replicated(mesh))
    checkpoints.close()
    outcome = {}
    for role in splits:
        scores, _ = predict(train_state.variables, role)
        split = splits[role]
        run_directory.write_scores(role, split, scores)
        outcome[role] = metrics.evaluate_scores(
            scores, split.labels, split.difficult, split.classes, seed=config.seed
        )
    sources.save(
        workdir / "model.safetensors",
        train_state.variables,
        architecture,
        preprocessing,
        train.classes,
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
            "weights": weights.record() if weights else None,
            "data": _data_record(config.data, splits),
        }
    )
    show_outcome(run_directory.read_results())


def _check_options(config: ConfigDict) -> None:
    check_choice("augment", config.augment, augment.KINDS)
    check_choice("batch_norm", config.batch_norm, ("frozen", "batch"))
    check_choice("data.difficult", config.data.difficult, ("ignore", "negative"))
    check_choice("model.dtype", config.model.dtype, DTYPES)
    check_choice("head", config.head, HEADS)
    if config.data.resize:
        check_choice("data.resize", config.data.resize, images.RULES)
    if not config.weights and config.head in ("probe", "keep"):
        raise UserError(f"head={config.head} needs weights; without, choose head=random or zeros")


def _read_splits(config: ConfigDict) -> dict[str, voc.Split]:
    root = voc.find_root(config.name, config.root)
    names = {role: config[f"{role}_split"] for role in ("train", "val", "test")}
    splits = {role: voc.read_split(root, name) for role, name in names.items() if name}
    for role in ("val", "test"):
        both = set(splits["train"].ids) & set(splits[role].ids if role in splits else ())
        if both:
            raise UserError(
                f"data.train_split={names['train']} and data.{role}_split={names[role]} share "
                f"{len(both)} photos, such as {min(both)}: they must be disjoint"
            )
    return splits


def _preprocessing(config: ConfigDict, weights: sources.Weights | None) -> Preprocessing:
    """The weights' own, but for what the config overrides by name."""
    own = weights.preprocessing if weights else TORCHVISION
    size = config.image_size or own.crop_size
    return dataclasses.replace(
        own,
        resize=config.resize or own.resize,
        crop_size=size,
        resize_size=round(own.resize_size * size / own.crop_size),
    )


def _architecture(
    config: ConfigDict, weights: sources.Weights | None, num_classes: int
) -> convert.Architecture:
    depth, width = config.model.depth, config.model.width
    if weights is None:
        return convert.Architecture(depth, width, "v1.5", EPSILON["v1.5"], num_classes)
    own = weights.architecture
    if (own.depth, own.width) != (depth, width):
        raise UserError(
            f"{weights.path} holds a ResNet-{own.depth} of width {own.width:g}, the config asks "
            f"for model.depth={depth} and model.width={width:g}"
        )
    return dataclasses.replace(own, num_classes=num_classes)


def _make_model(architecture: convert.Architecture, dtype: str) -> ResNet:
    return ResNet(**dataclasses.asdict(architecture), dtype=DTYPES[dtype])


def _initialise(model: ResNet, seed: int) -> Any:
    return model.init(jax.random.key(seed), jnp.zeros((1, 64, 64, 3)), live_norms=())


def _start(
    config: ConfigDict, model: ResNet, weights: sources.Weights | None, shapes: dict
) -> dict:
    """The variables to start from: the weights under the head that the config names, or random."""
    if weights is None or config.head == "random":
        random = jax.jit(lambda: _initialise(model, config.seed))()
        head = random["params"]["fc"]
    if config.head in ("probe", "zeros"):
        head = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes["params"]["fc"])
    if weights is None:
        return {**random, "params": {**random["params"], "fc": head}}
    return convert.to_variables(
        weights.tensors, shapes, head=None if config.head == "keep" else head
    )


def _new_state(variables: dict, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
    )


def _decode(
    splits: dict[str, voc.Split], config: ConfigDict, preprocessing: Preprocessing
) -> dict[str, np.memmap]:
    """Every split's photos, larger than the network sees them where crops are drawn from them."""
    is_cropped = preprocessing.resize == "resize_crop" or config.augment == "crop_flip"
    return {
        role: images.decode_once(
            split.paths,
            split.ids,
            size=preprocessing.resize_size if is_cropped else preprocessing.crop_size,
            rule=preprocessing.resize,
            interpolation=preprocessing.interpolation,
            directory=fetch.cache_dir() / "images",
        )
        for role, split in splits.items()
    }


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


def _data_record(config: ConfigDict, splits: dict[str, voc.Split]) -> dict:
    return {
        "name": config.name,
        "splits": {role: split.name for role, split in splits.items()},
        "ids_sha256": {role: split.ids_sha256 for role, split in splits.items()},
    }
