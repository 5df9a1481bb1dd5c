"""The solvers of the linear probe: features -> a head, and what was chosen."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vtl.console import say
from vtl.errors import UserError
from vtl.evaluation import one_label
from vtl.evaluation.outcome import MAP_PROTOCOL
from vtl.probing.problem import Fitted, Problem, mean_ap
from vtl.probing.svm import svm
from vtl.run_directory import RunDirectory
from vtl.training import choose_l2, fit_head, fit_linear, losses
from vtl.training.fit_linear import Linear


def sgd(problem: Problem, run_directory: RunDirectory) -> Fitted:
    """SGD from every seed; a held-out fifth of train chooses the learning rate and decay."""
    config, train = problem.config, problem.train
    grid = list(itertools.product(config.learning_rates, config.weight_decays))
    rows = np.arange(len(train.features))
    point = grid[0]
    if len(grid) > 1:
        if len(rows) < 2:
            raise UserError(
                "with one photo there is none to hold out: "
                "give one of learning_rates and one of weight_decays"
            )
        held_out = np.random.default_rng(config.seed).permutation(rows)[: max(1, len(rows) // 5)]
        fitted, _ = _sgd_grid(problem, np.setdiff1d(rows, held_out), grid)
        maps = [mean_ap(problem, head, train, held_out) for head in fitted]
        means = np.array(maps, np.float64).reshape(len(grid), config.num_seeds).mean(axis=1)
        if np.isnan(means).all():
            raise UserError(
                "no learning rate and decay can be chosen: "
                f"all diverged, or the {len(held_out)} held-out photos are of no class\n"
                "add smaller learning_rates, or give just one"
            )
        point = grid[int(np.nanargmax(means))]
        say(f"best of {len(grid)} points: learning rate {point[0]:g}, decay {point[1]:g}")
    fitted, by_step = _sgd_grid(problem, rows, [point])
    if not np.isfinite(by_step).all():
        raise UserError(
            f"the loss diverged at learning rate {point[0]:g}, decay {point[1]:g}: lower them"
        )
    steps_per_epoch = len(rows) / config.batch_size
    run_directory.append_metrics(
        [
            {"step": step, "epoch": step / steps_per_epoch, "loss": float(loss)}
            for step, loss in enumerate(by_step[0], start=1)
        ]
    )
    scored = problem.data.splits.get("test", train)
    maps = [mean_ap(problem, head, scored, np.arange(len(scored.features))) for head in fitted]
    details = {
        "learning_rate": point[0],
        "weight_decay": point[1],
        f"map_{MAP_PROTOCOL}_by_seed": {str(config.seed + i): m for i, m in enumerate(maps)},
    }

    def out_of_fold() -> np.ndarray:
        logits = np.zeros(train.labels.shape, np.float32)
        folds = choose_l2.held_out(len(rows), fit_head.NUM_FOLDS, config.seed, problem.groups)
        for is_out in folds.T:
            if is_out.any():
                (head,), _ = _sgd_grid(problem, rows[~is_out], [point], num_seeds=1)
                logits[is_out] = problem.logits(head, train.features[is_out])
        return logits

    return Fitted(fitted[0], details, out_of_fold)


def _sgd_grid(
    problem: Problem,
    rows: np.ndarray,
    grid: list[tuple[float, float]],
    *,
    num_seeds: int | None = None,
) -> tuple[list[Linear], np.ndarray]:
    """Heads for every point of the grid and, within it, every seed; losses [G, T]."""
    config, train = problem.config, problem.train
    seeds = range(config.seed, config.seed + (num_seeds or config.num_seeds))
    drawn = [
        fit_linear.seeded(
            (len(rows), train.features.shape[1]),
            train.labels.shape[1],
            num_epochs=config.num_epochs,
            batch_size=config.batch_size,
            seed=seed,
        )
        for seed in seeds
    ]
    starts, orders = zip(*drawn, strict=True)
    points = [point for point in grid for _ in starts]
    fitted, by_step = fit_linear.sgd(
        train.features[rows],
        train.labels[rows],
        problem.label_mask[rows],
        np.stack(orders * len(grid)),
        jax.tree.map(lambda *leaves: jnp.stack(leaves * len(grid)), *starts),
        np.array([rate for rate, _ in points], np.float32),
        np.array([decay for _, decay in points], np.float32),
        momentum=config.momentum,
        loss=problem.objective.loss,
    )
    return [Linear(fitted.kernel[g], fitted.bias[g]) for g in range(len(points))], by_step


def lbfgs(problem: Problem, run_directory: RunDirectory) -> Fitted:
    """Logistic regression, with one label each softmax regression.

    Each class, of a softmax regression all together, get the L2 of least cross-validated loss.
    """
    del run_directory
    config, train, one_label_each = problem.config, problem.train, problem.one_label_each
    weights = losses.label_weights(train.labels, problem.label_mask, problem.class_weights)
    l2 = choose_l2.by_cross_validation(
        train.features,
        train.labels,
        weights,
        config.l2s,
        num_folds=config.num_folds,
        seed=config.seed,
        one_label_each=one_label_each,
    )
    if len(config.l2s) > 1:
        say(f"L2 by cross-validation: {choose_l2.describe(l2)}")
    no_cells = np.zeros((len(train.features), 0, 1), np.float16)
    seen = train.features, no_cells, train.labels, weights
    head = fit_head.with_l2s(*seen, l2, one_label_each=one_label_each)

    def out_of_fold() -> np.ndarray:
        logits = fit_head.out_of_fold(
            *seen, l2, groups=problem.groups, seed=config.seed, one_label_each=one_label_each
        )
        return one_label.normalised(logits) if one_label_each else logits

    return Fitted(
        head, {"l2": dict(zip(problem.data.classes, l2.tolist(), strict=True))}, out_of_fold
    )


Solver = Callable[[Problem, RunDirectory], Fitted]
SOLVERS: dict[str, Solver] = {"sgd": sgd, "lbfgs": lbfgs, "svm": svm}

LOSSES_OF_LBFGS = ("sigmoid_bce", losses.SOFTMAX_CE)
