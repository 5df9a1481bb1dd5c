"""Low-shot SVMs: fitted to a few drawn positives a class, several times, and scored on test.

The draws are those of VISSL's benchmark (extra_scripts/create_voc07_low_shot_samples.py there, for
Goyal et al. 2019): for each k and each class apart, k of its positives and k negatives for each
other class. So those of 2 positives don't hold those of 1.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from vtl.errors import UserError
from vtl.evaluation import metrics
from vtl.probing.problem import Problem
from vtl.training import fit_svm
from vtl.untrusted import printable

PROTOCOL = "voc2010"
"""VISSL's AP; without difficult flags it is `lab`."""


class _Draw(NamedTuple):
    """The mAP [len(costs)] on train's other photos and on test; NaN if no class has one.

    On train's, that takes a positive and a negative: without one every C is as good.
    """

    on_rest: np.ndarray
    on_test: np.ndarray


def check(problem: Problem) -> None:
    """Raise UserError if the data can't be drawn from as the config asks."""
    if "test" not in problem.data.splits:
        raise UserError("low_shot is scored on test, and the features have no test split")
    wanted, most = problem.config.low_shot, int(_positives(problem).max())
    if min(wanted) > most:
        raise UserError(
            f"low_shot asks for {min(wanted)} positives and more, and no class has more than {most}"
        )


def _positives(problem: Problem) -> np.ndarray:
    """How many positives of train each class has, [C]; 0 if it has no negatives."""
    positives = np.sum(problem.train.labels * problem.label_mask, axis=0)
    return np.where(positives < problem.label_mask.sum(axis=0), positives, 0)


def measure(problem: Problem, costs: Sequence[float]) -> dict[str, Any]:
    """What results.json says of each number of positives, and of how it was measured."""
    config, classes = problem.config, problem.data.classes
    seeds = [config.seed + number for number in range(config.low_shot_draws)]
    test = problem.data.splits["test"]
    protocol = PROTOCOL if test.difficult is not None else "lab"
    costs = sorted({float(cost) for cost in costs})
    positives = _positives(problem)
    negatives = problem.label_mask.sum(axis=0) - positives
    num_others = max(1, len(classes) - 1)
    in_test = test.labels.any(axis=0)
    compact = fit_svm.compact(problem.train.features)
    of_test = test.features if compact.axes is None else test.features @ compact.axes
    rows_by_role = {"train": compact.rows, "test": of_test}
    by_k = {}
    with tqdm(total=len(config.low_shot) * len(seeds), desc="low-shot", unit="draw") as progress:
        for k in sorted({int(number) for number in config.low_shot}):
            draws = []
            for seed in seeds:
                draws.append(_draw(problem, rows_by_role, k, seed, costs, protocol))
                progress.update()
            left_out = [name for name, count in zip(classes, positives, strict=True) if count < k]
            short = (positives >= k) & (negatives < k * num_others)
            by_k[str(k)] = {
                "classes": int(np.sum((positives >= k) & in_test)),
                "left_out": left_out,
                "all_negatives": [classes[column] for column in np.flatnonzero(short)],
                **_best(draws, costs),
            }
    return {
        "protocol": protocol,
        "seeds": seeds,
        "costs": list(costs),
        "negatives_for_each_positive": num_others,
        "by_k": by_k,
    }


def drawn(problem: Problem, k: int, seed: int) -> list[np.ndarray | None]:
    """For each class the rows of train that are drawn; None if it has fewer than k positives.

    First its k positives, then k negatives for each other class, or all if there are fewer.
    """
    rng = np.random.default_rng((seed, k))
    labels, label_mask = problem.train.labels, problem.label_mask
    num_others, enough = max(1, labels.shape[1] - 1), _positives(problem) >= k
    rows: list[np.ndarray | None] = []
    for column in range(labels.shape[1]):
        if not enough[column]:
            rows.append(None)
            continue
        counts = label_mask[:, column] == 1
        positives = np.flatnonzero(counts & (labels[:, column] == 1))
        negatives = np.flatnonzero(counts & (labels[:, column] == 0))
        num_negatives = min(k * num_others, len(negatives))
        parts = (positives, k), (negatives, num_negatives)
        rows.append(np.concatenate([rng.choice(x, n, replace=False) for x, n in parts]))
    return rows


def _draw(
    problem: Problem,
    rows_by_role: dict[str, np.ndarray],
    k: int,
    seed: int,
    costs: Sequence[float],
    protocol: str,
) -> _Draw:
    """`rows_by_role` are the features of train and test as the machines see them."""
    config, train, test = problem.config, problem.train, problem.data.splits["test"]
    known = np.ones(test.labels.shape) if test.label_mask is None else test.label_mask
    of_rest: list[Any] = []
    of_test: list[Any] = []
    for column, rows in enumerate(drawn(problem, k, seed)):
        if rows is None:
            continue
        is_positive = train.labels[rows, column] == 1
        machines = [
            fit_svm.fit(
                rows_by_role["train"][rows],
                is_positive,
                cost,
                positive_weight=config.svm_positive_weight,
                seed=config.seed,
            )
            for cost in costs
        ]
        weights = np.stack([machine.weights for machine in machines], axis=1)
        biases = np.array([machine.bias for machine in machines])
        is_rest = problem.label_mask[:, column] == 1
        is_rest[rows] = False
        none_difficult = np.zeros(is_rest.sum(), np.uint8)
        rest = rows_by_role["train"][is_rest], train.labels[is_rest, column], none_difficult
        is_known = known[:, column] == 1
        difficult = None if test.difficult is None else test.difficult[is_known, column]
        asked = rows_by_role["test"][is_known], test.labels[is_known, column], difficult
        for aps, (features, labels, flags) in ((of_rest, rest), (of_test, asked)):
            if labels.any() and (aps is of_test or not labels.all()):
                margins = features @ weights + biases
                aps.append(
                    [metrics.average_precision(m, labels, flags, protocol) for m in margins.T]
                )
    nothing = np.full(len(costs), np.nan)
    return _Draw(*(np.mean(aps, axis=0) if aps else nothing for aps in (of_rest, of_test)))


def _best(draws: Sequence[_Draw], costs: Sequence[float]) -> dict[str, Any]:
    """The mAP on test at the C of the best mean mAP on train's other photos, and on test."""
    on_rest, on_test = (np.array(of_draws) for of_draws in zip(*draws, strict=True))
    found: dict[str, Any] = {}
    for name, chosen_by in (("chosen_on_train", on_rest), ("chosen_on_test", on_test)):
        found[name] = None
        if np.isfinite(chosen_by).all() and np.isfinite(on_test).all():
            place = int(np.argmax(chosen_by.mean(axis=0)))
            maps = on_test[:, place]
            found[name] = {
                "cost": costs[place],
                "map": maps.tolist(),
                "mean": float(maps.mean()),
                "deviation": float(maps.std()),
            }
    return found


def format_lines(measured: dict[str, Any], of_all: float | None) -> list[str]:
    """What was measured as a table; `of_all` is the mAP of the SVMs of all photos."""
    seeds, protocol = measured["seeds"], measured["protocol"]
    others, by_k = measured["negatives_for_each_positive"], measured["by_k"]
    lines = [
        f"low-shot: k positives and {others} k negatives a class, drawn {len(seeds)} times "
        f"(seeds {seeds[0]} to {seeds[-1]})",
        f"mAP on test ({protocol}), mean and deviation over the draws. Each k has one C: the best",
        "on what train has beside the drawn photos, or, as VISSL has it, the best on test itself",
    ]
    rows = [("k", "classes", "by train", "C", "by test", "C")]
    for k, of_k in by_k.items():
        cells = [cell for name in _CHOICES for cell in _cells(of_k[name])]
        rows.append((k, str(of_k["classes"]), *cells))
    if of_all is not None:
        rows.append(("all", "", f"{100 * of_all:.1f}", "", "", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = [f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    for k, of_k in by_k.items():
        if left_out := of_k["left_out"]:
            lines.append(f"k={k}: too few positives, left out: {_named(left_out)}")
    if short := [k for k, of_k in by_k.items() if of_k["all_negatives"]]:
        lines.append(f"k={', '.join(short)}: fewer than {others} k negatives, all are taken")
    return lines


_CHOICES = ("chosen_on_train", "chosen_on_test")


def _cells(choice: dict[str, Any] | None) -> tuple[str, str]:
    if choice is None:
        return "-", "-"
    mean, deviation = 100 * choice["mean"], 100 * choice["deviation"]
    return f"{mean:.1f} ({deviation:.1f})", f"{choice['cost']:g}"


def _named(names: Sequence[str]) -> str:
    return printable(", ".join(names), 300)
