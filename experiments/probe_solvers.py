"""The linear probe on photos with animals: SGD, logistic regression and SVMs, and low-shot SVMs.

    python -m experiments.probe_solvers --features SMALL LARGE

Each file has the features of one way to make them (docs/results.md has the commands). "mAP" is
scikit-learn's AP on test, averaged over the classes with at least five positives in both splits.
The low-shot SVMs are of the first file, and of the classes with at least 32 positives in train.
Writes experiments/probe_solvers.csv and experiments/probe_low_shot.csv.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from configs import linear_probe as probe_config
from experiments import tables
from vtl.data import deep_features
from vtl.data.deep_features import DeepFeatures
from vtl.evaluation import metrics
from vtl.models.head import transformed
from vtl.probing import low_shot, svm
from vtl.probing.problem import Problem
from vtl.probing.solvers import SOLVERS
from vtl.run_directory import RunDirectory

NUM_SEEDS = 3
RUNS = (
    ("sgd", "none"),
    ("lbfgs", "l2"),
    ("lbfgs", "sqrt_l2"),
    ("svm", "l2"),
    ("svm", "sqrt_l2"),
)
FEW, MANY = 5, 32
"""Positives in test, and for the low-shot SVMs in train, that a class must have."""

NUM_POSITIVES = (1, 2, 4, 8, 16, MANY)


def frequent(data: DeepFeatures, least_in_train: int) -> np.ndarray:
    """The columns of the classes with so many positives in train, and FEW in test."""
    train, test = (data.splits[role].labels.sum(axis=0) for role in ("train", "test"))
    return np.flatnonzero((train >= least_in_train) & (test >= FEW))


def restricted(data: DeepFeatures, columns: np.ndarray) -> DeepFeatures:
    """Of these classes alone."""
    splits = {}
    for role, split in data.splits.items():
        assert split.difficult is not None
        splits[role] = dataclasses.replace(
            split, labels=split.labels[:, columns], difficult=split.difficult[:, columns]
        )
    classes = tuple(data.classes[column] for column in columns)
    return dataclasses.replace(data, splits=splits, classes=classes)


def problem_of(data: DeepFeatures, transform: str, **changes: object) -> Problem:
    """The probe's problem on features after the transform."""
    config = probe_config.get_config()
    config.update(changes)
    splits = {
        role: dataclasses.replace(
            split, features=np.asarray(transformed(jnp.asarray(split.features), transform))
        )
        for role, split in data.splits.items()
    }
    return Problem(dataclasses.replace(data, splits=splits), config, "sigmoid_bce")


def map_of(problem: Problem, directory: Path) -> float:
    """The mAP on test over the classes with FEW positives in both splits, in percent."""
    test = problem.data.splits["test"]
    columns = frequent(problem.data, FEW)
    solver = SOLVERS[problem.config.solver]
    head = solver(problem, RunDirectory(directory, problem.config)).head
    logits = problem.logits(head, test.features)[:, columns]
    classes = [problem.data.classes[column] for column in columns]
    found = metrics.mean_average_precision(logits, test.labels[:, columns], None, classes, "lab")
    assert found is not None
    return 100 * found


def main() -> None:
    """Fit every head and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", required=True, nargs="+")
    options = parser.parse_args()
    here = Path(__file__)
    rows: list[tables.Row] = []
    for file in options.features:
        whole = deep_features.read(file)
        size = whole.meta["weights"]["preprocessing"]["crop_size"]
        for solver, transform in RUNS:
            maps = []
            for seed in range(NUM_SEEDS):
                problem = problem_of(whole, transform, solver=solver, seed=seed)
                with tempfile.TemporaryDirectory() as directory:
                    maps.append(map_of(problem, Path(directory)))
            row = {
                "size": size,
                "pooling": whole.meta["pooling"],
                "solver": solver,
                "transform": transform,
                "map": round(float(np.mean(maps)), 1),
                "lowest": round(min(maps), 1),
                "highest": round(max(maps), 1),
                "seeds": NUM_SEEDS,
            }
            tables.show(row)
            rows.append(row)
            tables.write_csv(here.with_suffix(".csv"), rows)
    whole = deep_features.read(options.features[0])
    data = restricted(whole, frequent(whole, MANY))
    shots = {"low_shot": NUM_POSITIVES, "difficult": "ignore"}
    measured = low_shot.measure(problem_of(data, "l2", solver="svm", **shots), svm.COSTS)
    of_shots = []
    for k, of_k in measured["by_k"].items():
        line: tables.Row = {"k": k, "classes": of_k["classes"]}
        for name in ("chosen_on_train", "chosen_on_test"):
            line[f"map_{name}"] = round(100 * of_k[name]["mean"], 1)
            line[f"deviation_{name}"] = round(100 * of_k[name]["deviation"], 1)
            line[f"cost_{name}"] = of_k[name]["cost"]
        tables.show(line)
        of_shots.append(line)
    tables.write_csv(here.with_name("probe_low_shot.csv"), of_shots)


if __name__ == "__main__":
    main()
