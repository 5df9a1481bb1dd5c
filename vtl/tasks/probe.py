"""Exercise 3: deep features -> linear head -> mAP."""

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vtl import identity, knobs
from vtl.console import say
from vtl.data import deep_features, duplicates, prepare
from vtl.data.deep_features import DeepFeatures
from vtl.data.splits import VOC_SPLITS
from vtl.errors import UserError, check_choice
from vtl.evaluation import outcome, thresholds
from vtl.evaluation.thresholds import Unseen
from vtl.files import user_path
from vtl.models.head import TRANSFORMS, transformed
from vtl.probing import low_shot
from vtl.probing.problem import Fitted, Problem
from vtl.probing.problem import predict as predict  # the lab sheet calls it here
from vtl.probing.solvers import LOSSES_OF_LBFGS, SOLVERS
from vtl.run_directory import RunDirectory
from vtl.stored_labels import Labels
from vtl.training import fit_head, losses
from vtl.untrusted import plain_sha256, printable
from vtl.weights import heads


def run(config: ConfigDict, workdir: Path) -> None:
    """Train the head and leave the outcome in `workdir`.

    Raises:
        UserError: the features or an option is invalid, or `workdir` holds something else.
    """
    _check_options(config)
    run_directory = RunDirectory(workdir, config)
    if outcome.was_finished(
        run_directory, lambda: _content(config), _format, splits=lambda: _labels(config)
    ):
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
    problem = Problem(_transformed(raw, transform, shift, scale), config, _loss(raw, config))
    data, one_label_each = problem.data, problem.one_label_each

    content = _content(config)
    run_directory.begin(content)
    run_directory.cut_metrics(-1)
    counts = _name_similar(raw, workdir)
    started = time.perf_counter()
    fitted = SOLVERS[config.solver](problem, run_directory)
    seconds = time.perf_counter() - started
    head = fitted.head
    logits = {role: problem.logits(head, split.features) for role, split in data.splits.items()}
    decisions, chosen = thresholds.decide(
        _unseen(problem, fitted, logits),
        data.classes,
        config.thresholds,
        one_label_each=one_label_each,
        seed=config.seed,
    )
    quantities = outcome.score_splits(
        run_directory,
        logits,
        data.splits,
        data.classes,
        config.seed,
        one_label_each=one_label_each,
        decisions=decisions,
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
        multi_label=not one_label_each,
    )
    run_directory.write_results(
        {
            "classes": list(data.classes),
            **quantities,
            **fitted.details,
            "decisions": chosen,
            "trainable_parameters": int(head.kernel.size + head.bias.size),
            "seconds": {"train": seconds},
            "weights": data.meta.get("weights"),
            "data": data.meta.get("data"),
            "duplicates": counts,
            "features": str(config.features),
            "features_sha256": content["features"],
        }
    )
    say(_format(run_directory, run_directory.read_results()))


def _format(run_directory: RunDirectory, results: dict[str, Any]) -> str:
    """The outcome, with what the benchmark's protocols add to it."""
    further: list[str] = []
    if "svm" in results:
        further.append(f"The AP that VISSL's SVM benchmark states is {low_shot.PROTOCOL}.")
    if "low_shot" in results:
        of_all = results["map"]["test"][results["low_shot"]["protocol"]]
        further += ["", *low_shot.format_lines(results["low_shot"], of_all), ""]
    return outcome.format_outcome(run_directory, results, further)


def _check_options(config: ConfigDict) -> None:
    knobs.check(config)
    check_choice("solver", config.solver, SOLVERS)
    check_choice("transform", _transform(config), (*TRANSFORMS, STANDARDISE))
    check_choice("difficult", config.difficult, ("ignore", "negative"))
    check_choice("loss", config.loss, ("", *losses.NAMES))
    check_choice("class_weights", config.class_weights, losses.CLASS_WEIGHTS)
    thresholds.check_rule(config.thresholds)
    if not config.features:
        raise UserError(
            "no features: name a file of `vtl deep_features`, "
            "as in --config.features=runs/features/DF_ResNet50_VOC2007.npz"
        )
    if config.solver == "sgd" and not config.num_epochs:
        raise UserError("num_epochs must be above 0: a head that isn't trained is a random one")
    if config.solver == "lbfgs" and config.loss not in ("", *LOSSES_OF_LBFGS):
        raise UserError(
            f"solver=lbfgs takes loss={' or '.join(LOSSES_OF_LBFGS)}; solver=sgd takes "
            f"{config.loss} too"
        )
    _check_svm(config)
    for option in ("learning_rates", "weight_decays", "l2s"):
        if not config[option]:
            raise UserError(f"{option} must not be empty")


def _check_svm(config: ConfigDict) -> None:
    """Refuse what an SVM has no use for, and its knobs with another solver."""
    for option in SVM_KNOBS if config.solver != "svm" else ():
        value = config[option]
        if (list(value) if isinstance(value, tuple) else value) != identity.ADDED[option]:
            raise UserError(
                f"{option} is for solver=svm, and the solver is {config.solver}\n"
                f"add --config.solver=svm, or leave {option} as it is"
            )
    if config.solver == "svm" and config.loss:
        raise UserError(
            "solver=svm has a loss of its own, the squared hinge: leave loss empty\n"
            f"solver=sgd takes loss={config.loss}"
        )
    if config.solver == "svm" and config.class_weights != "none":
        raise UserError(
            f"solver=svm weighs positives by svm_positive_weight ({config.svm_positive_weight:g}): "
            "leave class_weights at none"
        )
    for k in config.low_shot:
        if k != int(k):
            raise UserError(f"low_shot must be whole numbers of photos, got {k}")


def _content(config: ConfigDict) -> dict[str, str]:
    """What the run is made of, by hash."""
    return {"features": plain_sha256(user_path(config.features))}


def _labels(config: ConfigDict) -> dict[str, Labels]:
    data = deep_features.read(config.features)
    return {
        role: Labels(its.ids, data.classes, its.labels, its.label_mask)
        for role, its in data.splits.items()
        if its.ids
    }


def _loss(data: DeepFeatures, config: ConfigDict) -> str:
    """The loss that the config names; an empty one goes by what the features' file says."""
    one_label_each = all(split.has_one_label_each for split in data.splits.values())
    if not config.loss:
        one_label_each &= data.is_said_to_have_one_label_each
    return losses.loss_of(config.loss, one_label_each=one_label_each)


class _Names(NamedTuple):
    """What of a split is written of its photos, as `duplicates.Listed`."""

    name: str
    ids: Sequence[str]
    paths: Sequence[str]


def _name_similar(data: DeepFeatures, workdir: Path) -> dict[str, int]:
    """Warn of photos of two splits with similar features, list them, and count them by kind."""
    pairs = duplicates.similar({role: split.features for role, split in data.splits.items()})
    if pairs:
        names, splits = data.meta.get("data", {}).get("splits", {}), {}
        for role, split in data.splits.items():
            ids = split.ids or [f"row {row}" for row in range(len(split.features))]
            splits[role] = _Names(names.get(role, role), ids, ids)
        prepare.warn(duplicates.describe(pairs, splits))
        duplicates.write(workdir / prepare.DUPLICATES_FILE, pairs, splits)
    return dict(Counter(pair.kind for pair in pairs))


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


SVM_KNOBS = ("svm_costs", "svm_folds", "svm_positive_weight", "low_shot", "low_shot_draws")
"""What only solver=svm reads. Elsewhere each must be as in runs of before it was there."""

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


def _unseen(problem: Problem, fitted: Fitted, logits: dict[str, np.ndarray]) -> Unseen | None:
    """What thresholds are chosen on: val or, without it, train; None if train is too small."""
    split, role = problem.data.splits.get("val"), "val"
    if split is None:
        split, role = problem.train, "train"
        if problem.groups.max() + 1 < 2 * fit_head.NUM_FOLDS:
            return None
    fold = ", out of fold" if role == "train" else ""
    return Unseen(
        fitted.out_of_fold() if role == "train" else logits[role],
        split.labels,
        outcome.counted_labels(split),
        f"{len(split.labels)} photos of {role}{fold}",
    )
