"""Exercise 3: deep features -> linear head -> mAP."""

import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vtl import knobs
from vtl.console import say
from vtl.data import deep_features
from vtl.data.deep_features import DeepFeatures, FeatureSplit
from vtl.data.splits import VOC_SPLITS
from vtl.errors import UserError, check_choice
from vtl.evaluation import metrics, outcome, thresholds
from vtl.evaluation.outcome import MAP_PROTOCOL
from vtl.evaluation.thresholds import Unseen
from vtl.files import user_path
from vtl.models.head import TRANSFORMS, transformed
from vtl.run_directory import RunDirectory
from vtl.training import choose_l2, fit_head, fit_linear
from vtl.training.fit_linear import Linear
from vtl.untrusted import plain_sha256, printable
from vtl.weights import heads


def run(config: ConfigDict, workdir: Path) -> None:
    """Train the head and leave the outcome in `workdir`.

    Raises:
        UserError: the features or an option is invalid, or `workdir` holds something else.
    """
    _check_options(config)
    run_directory = RunDirectory(workdir, config)
    if outcome.was_finished(run_directory, lambda: _content(config)):
        return
    raw = deep_features.read(config.features)
    _check_meta(raw, config)
    train = raw.splits["train"]
    if config.difficult == "ignore" and train.difficult is None:
        raise UserError(
            f"difficult=ignore: {config.features} has no difficult flags\nchoose difficult=negative"
        )
    transform = _transform(config)
    shift, scale = _scaling(transform, train.features)
    data = _transformed(raw, transform, shift, scale)

    content = _content(config)
    run_directory.begin(content)
    run_directory.cut_metrics(-1)
    started = time.perf_counter()
    head, details, out_of_fold = SOLVERS[config.solver](data, config, run_directory)
    seconds = time.perf_counter() - started
    logits = {role: predict(head, split.features) for role, split in data.splits.items()}
    decisions, chosen = thresholds.decide(
        _unseen(data, logits, out_of_fold),
        data.classes,
        config.thresholds,
        one_label_each=False,
        seed=config.seed,
    )
    quantities = outcome.score_splits(
        run_directory, logits, data.splits, data.classes, config.seed, decisions=decisions
    )
    kernel = np.asarray(head.kernel) / scale[:, None]
    heads.save(
        workdir,
        kernel,
        np.asarray(head.bias) - shift @ kernel,
        classes=data.classes,
        features=data.meta,
        transform="none" if transform == STANDARDISE else transform,
        decisions=decisions,
    )
    run_directory.write_results(
        {
            "classes": list(data.classes),
            **quantities,
            **details,
            "decisions": chosen,
            "trainable_parameters": int(head.kernel.size + head.bias.size),
            "seconds": {"train": seconds},
            "weights": data.meta.get("weights"),
            "data": data.meta.get("data"),
            "features": str(config.features),
            "features_sha256": content["features"],
        }
    )
    outcome.show_outcome(run_directory)


def _check_options(config: ConfigDict) -> None:
    knobs.check(config)
    check_choice("solver", config.solver, SOLVERS)
    check_choice("transform", _transform(config), (*TRANSFORMS, STANDARDISE))
    check_choice("difficult", config.difficult, ("ignore", "negative"))
    thresholds.check_rule(config.thresholds)
    if not config.features:
        raise UserError(
            "no features: name a file of `vtl deep_features`, "
            "as in --config.features=runs/features/DF_ResNet50_VOC2007.npz"
        )
    if config.solver == "sgd" and not config.num_epochs:
        raise UserError("num_epochs must be above 0: a head that isn't trained is a random one")
    for option in ("learning_rates", "weight_decays", "l2s"):
        if not config[option]:
            raise UserError(f"{option} must not be empty")


def _content(config: ConfigDict) -> dict[str, str]:
    """What the run is made of, by hash."""
    return {"features": plain_sha256(user_path(config.features))}


def predict(head: Linear, features: np.ndarray) -> np.ndarray:
    """The logits [N, C] of features [N, D]."""
    return features @ np.asarray(head.kernel) + np.asarray(head.bias)


def _check_meta(data: DeepFeatures, config: ConfigDict) -> None:
    """Refuse features that were made with other splits, classes or weights than the config's."""
    splits = data.meta.get("data", {}).get("splits", {})
    made_with = {
        "train_split": splits.get("train"),
        "test_split": splits.get("test"),
        "weights": data.meta.get("weights", {}).get("name"),
        "classes": data.classes,
    }
    for option, value in made_with.items():
        role = option.removesuffix("_split")
        if value == role and config[option] == VOC_SPLITS.get(role):
            continue  # data that isn't VOC's, and a config that asks for nothing else
        if config[option] and value and config[option] != value:
            raise UserError(
                f"{config.features} was made with {option}={printable(value, 100)}\n"
                f"but the config asks for {option}={config[option]}"
            )


STANDARDISE = "standardise"
"""Beside those of `models.head`: what it does can be done to the head's weights instead."""


def _transform(config: ConfigDict) -> str:
    return config.scaling or config.transform


def _scaling(kind: str, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What to subtract and divide by: the train split's mean and deviation, or 0 and 1."""
    width = features.shape[1]
    if kind != STANDARDISE:
        return np.zeros(width, np.float32), np.ones(width, np.float32)
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = features.std(axis=0, dtype=np.float64)
    is_constant = deviation <= 1e-6 * np.abs(mean)
    return mean.astype(np.float32), np.where(is_constant, 1, deviation).astype(np.float32)


def _transformed(
    data: DeepFeatures, kind: str, shift: np.ndarray, scale: np.ndarray
) -> DeepFeatures:
    def transform(features: np.ndarray) -> np.ndarray:
        if kind == STANDARDISE:
            return (features - shift) / scale
        return np.asarray(transformed(jnp.asarray(features), kind))

    splits = {
        role: dataclasses.replace(split, features=transform(split.features))
        for role, split in data.splits.items()
    }
    return dataclasses.replace(data, splits=splits)


def _label_mask(split: FeatureSplit, difficult: str) -> np.ndarray:
    """Which labels [N, C] count in the loss."""
    known = np.ones_like(split.labels) if split.label_mask is None else split.label_mask
    if difficult == "negative" or split.difficult is None:
        return known
    return known * (1 - split.difficult)


OutOfFold = Callable[[], np.ndarray]
"""Gives the logits [N, C] of each photo of train by a head that was fitted without it."""


def _unseen(
    data: DeepFeatures, logits: dict[str, np.ndarray], out_of_fold: OutOfFold
) -> Unseen | None:
    """What thresholds are chosen on: val or, without it, train; None if train is too small."""
    split, role = data.splits.get("val"), "val"
    if split is None:
        split, role = data.splits["train"], "train"
        if _groups(split.features).max() + 1 < 2 * fit_head.NUM_FOLDS:
            return None
    fold = ", out of fold" if role == "train" else ""
    return Unseen(
        out_of_fold() if role == "train" else logits[role],
        split.labels,
        outcome.counted_labels(split),
        f"{len(split.labels)} photos of {role}{fold}",
    )


def _groups(features: np.ndarray) -> np.ndarray:
    """The number [N] of each row of features [N, D]; what is the same photo has the same."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in features])


def _sgd(
    data: DeepFeatures, config: ConfigDict, run_directory: RunDirectory
) -> tuple[Linear, dict[str, Any], OutOfFold]:
    """SGD from every seed; a held-out fifth of train chooses the learning rate and decay."""
    grid = list(itertools.product(config.learning_rates, config.weight_decays))
    train = data.splits["train"]
    rows = np.arange(len(train.features))
    point = grid[0]
    if len(grid) > 1:
        if len(rows) < 2:
            raise UserError(
                "with one photo there is none to hold out: "
                "give one of learning_rates and one of weight_decays"
            )
        held_out = np.random.default_rng(config.seed).permutation(rows)[: max(1, len(rows) // 5)]
        fitted, _ = _sgd_grid(train, np.setdiff1d(rows, held_out), grid, config)
        maps = [_mean_ap(head, train, held_out, data.classes) for head in fitted]
        means = np.array(maps, np.float64).reshape(len(grid), config.num_seeds).mean(axis=1)
        if np.isnan(means).all():
            raise UserError(
                "no learning rate and decay can be chosen: "
                f"all diverged, or the {len(held_out)} held-out photos are of no class\n"
                "add smaller learning_rates, or give just one"
            )
        point = grid[int(np.nanargmax(means))]
        say(f"best of {len(grid)} points: learning rate {point[0]:g}, decay {point[1]:g}")
    fitted, losses = _sgd_grid(train, rows, [point], config)
    if not np.isfinite(losses).all():
        raise UserError(
            f"the loss diverged at learning rate {point[0]:g}, decay {point[1]:g}: lower them"
        )
    steps_per_epoch = len(rows) / config.batch_size
    run_directory.append_metrics(
        [
            {"step": step, "epoch": step / steps_per_epoch, "loss": float(loss)}
            for step, loss in enumerate(losses[0], start=1)
        ]
    )
    scored = data.splits.get("test", train)
    maps = [
        _mean_ap(head, scored, np.arange(len(scored.features)), data.classes) for head in fitted
    ]
    details = {
        "learning_rate": point[0],
        "weight_decay": point[1],
        f"map_{MAP_PROTOCOL}_by_seed": {str(config.seed + i): m for i, m in enumerate(maps)},
    }

    def out_of_fold() -> np.ndarray:
        logits = np.zeros(train.labels.shape, np.float32)
        groups = _groups(train.features)
        for is_out in choose_l2.held_out(len(rows), fit_head.NUM_FOLDS, config.seed, groups).T:
            if is_out.any():
                (head,), _ = _sgd_grid(train, rows[~is_out], [point], config, num_seeds=1)
                logits[is_out] = predict(head, train.features[is_out])
        return logits

    return fitted[0], details, out_of_fold


def _sgd_grid(
    split: FeatureSplit,
    rows: np.ndarray,
    grid: list[tuple[float, float]],
    config: ConfigDict,
    *,
    num_seeds: int | None = None,
) -> tuple[list[Linear], np.ndarray]:
    """Heads for every point of the grid and, within it, every seed; losses [G, T]."""
    seeds = range(config.seed, config.seed + (num_seeds or config.num_seeds))
    drawn = [
        fit_linear.seeded(
            (len(rows), split.features.shape[1]),
            split.labels.shape[1],
            num_epochs=config.num_epochs,
            batch_size=config.batch_size,
            seed=seed,
        )
        for seed in seeds
    ]
    starts, orders = zip(*drawn, strict=True)
    points = [point for point in grid for _ in starts]
    fitted, losses = fit_linear.sgd(
        split.features[rows],
        split.labels[rows],
        _label_mask(split, config.difficult)[rows],
        np.stack(orders * len(grid)),
        jax.tree.map(lambda *leaves: jnp.stack(leaves * len(grid)), *starts),
        np.array([rate for rate, _ in points], np.float32),
        np.array([decay for _, decay in points], np.float32),
        momentum=config.momentum,
    )
    return [Linear(fitted.kernel[g], fitted.bias[g]) for g in range(len(points))], losses


def _mean_ap(
    head: Linear, split: FeatureSplit, rows: np.ndarray, classes: tuple[Any, ...]
) -> float | None:
    labels = split.labels[rows]
    label_mask = None if split.label_mask is None else split.label_mask[rows]
    logits = predict(head, split.features[rows])
    if not np.isfinite(logits).all():
        return None  # diverged
    return metrics.mean_average_precision(logits, labels, None, classes, MAP_PROTOCOL, label_mask)


def _lbfgs(
    data: DeepFeatures, config: ConfigDict, run_directory: RunDirectory
) -> tuple[Linear, dict[str, Any], OutOfFold]:
    """Logistic regression; each class gets the L2 of least cross-validated cross-entropy."""
    del run_directory
    train = data.splits["train"]
    label_mask = _label_mask(train, config.difficult)
    l2 = choose_l2.by_cross_validation(
        train.features,
        train.labels,
        label_mask,
        config.l2s,
        num_folds=config.num_folds,
        seed=config.seed,
    )
    if len(config.l2s) > 1:
        say(f"L2 by cross-validation: {choose_l2.describe(l2)}")
    head = fit_linear.logistic_regression(train.features, train.labels, label_mask, l2)

    def out_of_fold() -> np.ndarray:
        no_cells = np.zeros((len(train.features), 0, 1), np.float16)
        return fit_head.out_of_fold(
            train.features,
            no_cells,
            train.labels,
            label_mask,
            l2,
            groups=_groups(train.features),
            seed=config.seed,
        )

    return head, {"l2": dict(zip(data.classes, l2.tolist(), strict=True))}, out_of_fold


Solver = Callable[
    [DeepFeatures, ConfigDict, RunDirectory], tuple[Linear, dict[str, Any], OutOfFold]
]
SOLVERS: dict[str, Solver] = {"sgd": _sgd, "lbfgs": _lbfgs}
