"""The linear SVMs of the probe, each class's C by the AP in cross-validation on train.

The protocol is that of VISSL's benchmark: https://github.com/facebookresearch/vissl,
vissl/utils/svm_utils, from Goyal et al. 2019, "Scaling and Benchmarking Self-Supervised Visual
Representation Learning".
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from tqdm import tqdm

from vtl.console import say
from vtl.errors import UserError
from vtl.probing import low_shot
from vtl.probing.problem import Fitted, Problem
from vtl.run_directory import RunDirectory
from vtl.training import choose_l2, fit_head, fit_svm
from vtl.training.fit_linear import Linear
from vtl.untrusted import printable

COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
"""VISSL's, for features of norm 1."""

WORTH = 2e-3
"""The mAP by which an end of the grid must gain for it to go on there."""

MOST_STEPS_BEYOND = 4
"""How far the grid goes on at either end, in steps of its own."""


class Choice(NamedTuple):
    """Each class's C [C], the costs tried, rising, and the APs [len(costs), C] in cross-validation.

    A class with too few positives, or negatives, has no AP (NaN): `too_few` names it.
    """

    chosen: np.ndarray
    costs: tuple[float, ...]
    aps: np.ndarray
    too_few: tuple[str, ...]
    num_fits: int
    num_unconverged: int


def svm(problem: Problem, run_directory: RunDirectory) -> Fitted:
    """One SVM a class, with several draws of a few photos too if the config asks for them."""
    del run_directory
    config, train = problem.config, problem.train
    if config.low_shot:
        low_shot.check(problem)
    choice = choose(problem)
    _say(choice, config)

    def fitted(rows: np.ndarray, costs: np.ndarray) -> tuple[Linear, int]:
        return fit_svm.fit_each(
            train.features[rows],
            train.labels[rows],
            problem.label_mask[rows],
            costs,
            positive_weight=config.svm_positive_weight,
            seed=config.seed,
        )

    head, num_unconverged = fitted(np.ones(len(train.features), bool), choice.chosen)
    num_fits = choice.num_fits + len(choice.chosen)
    num_unconverged += choice.num_unconverged
    if num_unconverged:
        say(
            f"{num_unconverged} of {num_fits} fits were not done after {fit_svm.MAX_ITERATIONS} "
            "passes, VISSL's limit"
        )
    details = _details(choice, problem) | {"fits": num_fits, "unconverged": num_unconverged}
    found = {"svm": details}
    if config.low_shot:
        found["low_shot"] = low_shot.measure(problem, config.svm_costs or COSTS)

    def out_of_fold() -> np.ndarray:
        logits = np.zeros(train.labels.shape, np.float32)
        # C weighs a sum over photos, so that a fold's fewer ones each count for more.
        costs = choose_l2.in_fold(choice.chosen, fit_head.NUM_FOLDS)
        num_rows = len(train.features)
        folds = choose_l2.held_out(num_rows, fit_head.NUM_FOLDS, config.seed, problem.groups)
        for outside in folds.T:
            if outside.any():
                of_fold, _ = fitted(~outside, costs)
                logits[outside] = problem.logits(of_fold, train.features[outside])
        return logits

    return Fitted(head, found, out_of_fold)


def choose(problem: Problem) -> Choice:
    """The C of each class from the config's costs, or from VISSL's and what lies beyond them.

    Raises:
        UserError: there are several costs, and no class has enough positives to choose by.
    """
    config, classes = problem.config, problem.data.classes
    costs = sorted({float(cost) for cost in config.svm_costs or COSTS})
    if len(costs) == 1:
        no_aps = np.full((1, len(classes)), np.nan)
        return Choice(np.full(len(classes), costs[0]), tuple(costs), no_aps, (), 0, 0)
    labels, label_mask = problem.train.labels, problem.label_mask
    rows = fit_svm.compact(problem.train.features).rows
    positives = np.sum(labels * label_mask, axis=0)
    can_choose = np.minimum(positives, label_mask.sum(axis=0) - positives) >= config.svm_folds
    if not can_choose.any():
        raise UserError(
            f"no C can be chosen: no class has {config.svm_folds} positives and as many negatives\n"
            "give just one, as in --config.svm_costs='(1.0,)'"
        )
    columns, found, num_unconverged = np.flatnonzero(can_choose), {}, 0
    with tqdm(desc="C by cross-validation", unit="fit") as progress:

        def try_costs(costs: Sequence[float]) -> int:
            progress.total = (progress.total or 0) + len(costs) * len(columns) * config.svm_folds
            unconverged = 0
            for cost in costs:
                found[cost] = np.full(len(classes), np.nan)
                for column in columns:
                    counts = label_mask[:, column] == 1
                    is_positive = labels[counts, column] == 1
                    aps, failed = _fold_aps(rows[counts], is_positive, cost, config)
                    found[cost][column] = np.mean(aps)
                    unconverged += failed
                    progress.update(config.svm_folds)
            return unconverged

        num_unconverged += try_costs(costs)
        for place, before in ((0, 1), (-1, -2)):
            for _ in range(0 if config.svm_costs else MOST_STEPS_BEYOND):
                grid = sorted(found)
                aps = np.array([found[cost] for cost in grid])[:, columns]
                gain = aps.max(axis=0) - np.delete(aps, place, axis=0).max(axis=0)
                if gain.mean() < WORTH:
                    break
                num_unconverged += try_costs([grid[place] ** 2 / grid[before]])
    grid = sorted(found)
    aps = np.array([found[cost] for cost in grid])
    chosen = np.full(len(classes), grid[int(np.argmax(aps[:, columns].mean(axis=1)))])
    chosen[columns] = np.array(grid)[np.argmax(aps[:, columns], axis=0)]
    too_few = tuple(name for name, can in zip(classes, can_choose, strict=True) if not can)
    num_fits = len(grid) * len(columns) * config.svm_folds
    return Choice(chosen, tuple(grid), aps, too_few, num_fits, num_unconverged)


def _fold_aps(
    rows: np.ndarray, is_positive: np.ndarray, cost: float, config: ConfigDict
) -> tuple[list[float], int]:
    """The AP on each held-out part, and how many fits didn't converge.

    The parts are what scikit-learn's cross_val_score makes of a classifier's data: consecutive, and
    each with its share of positives.
    """
    aps, num_unconverged = [], 0
    for inside, outside in StratifiedKFold(config.svm_folds).split(rows, is_positive):
        machine = fit_svm.fit(
            rows[inside],
            is_positive[inside],
            cost,
            positive_weight=config.svm_positive_weight,
            seed=config.seed,
        )
        margins = rows[outside] @ machine.weights + machine.bias
        aps.append(float(average_precision_score(is_positive[outside], margins)))
        num_unconverged += not machine.converged
    return aps, num_unconverged


def _say(choice: Choice, config: ConfigDict) -> None:
    if len(choice.costs) == 1:
        return
    can_choose = ~np.isnan(choice.aps[0])
    say(
        f"C by AP in {config.svm_folds} folds of train, of {choice.costs[0]:g} to "
        f"{choice.costs[-1]:g}: {choose_l2.describe(choice.chosen[can_choose])}"
    )
    aps = choice.aps[:, can_choose]
    for place, before, name in ((0, 1, "least"), (-1, -2, "largest")):
        at_end = choice.chosen[can_choose] == choice.costs[place]
        num_classes = int(np.sum(at_end & (aps[place] > aps[before])))
        if num_classes:
            named = "1 class" if num_classes == 1 else f"{num_classes} classes"
            say(
                f"the best C of {named} is the {name} tried, "
                f"{choice.costs[place]:g}: others may be better (--config.svm_costs)"
            )
    if choice.too_few:
        named = printable(", ".join(choice.too_few), 100)
        (cost,) = set(choice.chosen[~can_choose])
        say(
            f"C={cost:g}, the best for the others together, where {config.svm_folds} folds lack "
            f"positives or negatives: {named}"
        )


def _details(choice: Choice, problem: Problem) -> dict[str, Any]:
    """What results.json says of the choice."""
    classes = problem.data.classes
    aps = {
        name: None if np.isnan(of_class).any() else of_class.tolist()
        for name, of_class in zip(classes, choice.aps.T, strict=True)
    }
    return {
        "C": dict(zip(classes, choice.chosen.tolist(), strict=True)),
        "costs": list(choice.costs),
        "ap_by_cost": aps,
        "too_few_to_choose": list(choice.too_few),
    }
