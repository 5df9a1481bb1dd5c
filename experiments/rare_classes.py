"""Losses and class weights for rare classes, by the linear probe on photos with animals.

    python -m experiments.rare_classes --root=DEVKIT --weights=FILE --out=runs/rare_classes

The five partitions of experiments/partitions.py, 700 photos to train on and 500 to test on,
squashed to 224 pixels; `vtl linear_probe` with `sqrt_l2` and 50 epochs of SGD on each, from three
seeds, each loss at the learning rate that does best on a fifth of train. The twelve classes are
those with at least five positives in both parts of every partition, the rare ones of them those in
at most one photo of twenty. mAP is scikit-learn's AP. Macro F1 is over the same classes: at a
probability of a half before calibration, and at the thresholds that the probe chose out of fold,
after it. A difference is to plain BCE, in points: its interval is that of a bootstrap over the
1,200 photos, drawn for all partitions and seeds at once, and its range that of the three seeds.
Features are computed once, in minutes on 2 CPU cores; what is fitted lies in OUT. Writes
experiments/rare_classes.csv.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from configs import linear_probe as probe_config
from experiments import grid, partitions, tables
from vtl.data import deep_features
from vtl.data.split import Split
from vtl.evaluation import metrics
from vtl.evaluation.resampling import mean_over_classes
from vtl.tasks import probe

SIZE = "squash 224"
SEEDS = (0, 1, 2)
RARE_SHARE = 0.05

OPTIONS = {
    "transform": "sqrt_l2",
    "learning_rates": (10.0, 30.0, 100.0, 300.0, 1000.0),
    "num_epochs": 50.0,
}


class Recipe(NamedTuple):
    """A loss and the weights of classes."""

    loss: str
    class_weights: str


PLAIN = Recipe("sigmoid_bce", "none")
RECIPES = [
    PLAIN,
    Recipe("sigmoid_bce", "balanced"),
    Recipe("focal", "none"),
    Recipe("asymmetric", "none"),
]

Measured = dict[str, np.ndarray]
"""What is measured of a run, in percent, first as it is and then in each resample: [1 + R]."""


def main() -> None:
    """Fit what is missing, measure all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/rare_classes"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    splits = partitions.sample_photos(options.root)
    whole, parts = joined(splits), list(partitions.partitions(partitions.groups_of(splits)))
    features = partitions.features(SIZE, splits, options)["average"][:, 0]
    columns, is_rare = classes_of(whole, parts)
    draws = np.random.default_rng(0).multinomial(
        len(whole), np.full(len(whole), 1 / len(whole)), partitions.NUM_RESAMPLES
    )
    counts = np.concatenate([np.ones((len(whole), 1), int), draws.T], axis=1)
    measured: dict[Recipe, list[Measured]] = {}
    rows = []
    for recipe in RECIPES:
        by_seed = []
        for seed in SEEDS:
            of_parts = []
            for number, (train, test) in enumerate(parts):
                path = write_features(
                    options.out / f"part_{number}.npz", features, whole, train, test
                )
                run = fit(path, recipe, seed, options.out)
                of_parts.append(measure(run, columns, is_rare, counts[test]))
            by_seed.append(
                {name: np.mean([m[name] for m in of_parts], axis=0) for name in of_parts[0]}
            )
        measured[recipe] = by_seed
        rows.append(row(recipe, by_seed, measured[PLAIN]))
        tables.show(rows[-1])
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


def joined(splits: dict[str, Split]) -> Split:
    """All photos as one split."""
    train, test = splits["train"], splits["test"]
    return dataclasses.replace(
        train,
        ids=train.ids + test.ids,
        paths=[*train.paths, *test.paths],
        labels=np.concatenate([train.labels, test.labels]),
        label_mask=np.concatenate([train.label_mask, test.label_mask]),
        difficult=np.concatenate([train.difficult, test.difficult]),
    )


def classes_of(
    whole: Split, parts: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """The columns that are scored, and which of these are rare."""
    labels = np.asarray(whole.labels)
    least = np.min([labels[rows].sum(axis=0) for part in parts for rows in part], axis=0)
    columns = np.flatnonzero(least >= partitions.LEAST_POSITIVES)
    return columns, labels[:, columns].mean(axis=0) <= RARE_SHARE


def write_features(
    path: Path, features: np.ndarray, whole: Split, train: np.ndarray, test: np.ndarray
) -> Path:
    """The .npz of a partition, unless it is there."""
    if not path.exists():
        rows = {"train": train, "test": test}
        of_roles = {role: whole.rows(its) for role, its in rows.items()}
        deep_features.write(path, {role: features[its] for role, its in rows.items()}, of_roles, {})
    return path


def fit(features: Path, recipe: Recipe, seed: int, out: Path) -> Path:
    """The directory of a finished probe."""
    config = probe_config.get_config()
    config.lock()
    own = {"features": str(features), "seed": seed, **recipe._asdict()}
    config.update_from_flattened_dict(own | OPTIONS)
    workdir = out / features.stem / f"{'_'.join(recipe)}_{seed}"
    probe.run(config, workdir)
    return workdir


def measure(run: Path, columns: np.ndarray, is_rare: np.ndarray, counts: np.ndarray) -> Measured:
    """What is measured of a run on its test photos, each of which counts [N, 1 + R] times."""
    with np.load(run / "scores_test.npz", allow_pickle=False) as file:
        logits, labels, scores, calibrated = (
            file[name][:, columns] for name in ("logits", "labels", "scores", "probabilities")
        )
    thresholds = thresholds_of(run, columns)
    at_half, at_chosen = (
        f1(answers, labels, counts) for answers in (scores >= 0.5, calibrated >= thresholds)
    )
    aps = np.stack(
        [
            metrics.resampled_map(logits[:, [c]], labels[:, [c]], "lab", counts)
            for c in range(len(columns))
        ]
    )
    found = {"map": aps, "f1_half": at_half, "f1_chosen": at_chosen}
    return {
        name + ending: 100 * mean_over_classes(values[kept])
        for name, values in found.items()
        for ending, kept in (("", slice(None)), ("_rare", is_rare))
    }


def thresholds_of(run: Path, columns: np.ndarray) -> np.ndarray:
    """The thresholds [C] that a probe chose."""
    decisions = grid.outcome(run)["decisions"]["by_class"]
    return np.array([entry["threshold"] for entry in decisions.values()], np.float32)[columns]


def f1(answers: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The F1 [C, R] of answers [N, C] bool with each photo counts [N, R] times."""
    hits, answered, positives = (
        flags.T.astype(np.int64) @ counts for flags in (answers & (labels == 1), answers, labels)
    )
    return np.where(positives > 0, 2 * hits / np.maximum(answered + positives, 1), np.nan)


def row(recipe: Recipe, by_seed: list[Measured], plain: list[Measured]) -> tables.Row:
    """One line of the table, in percent."""
    line: tables.Row = recipe._asdict()
    for name in by_seed[0]:
        line[name] = np.mean([its[name][0] for its in by_seed])
        differences = [its[name] - theirs[name] for its, theirs in zip(by_seed, plain, strict=True)]
        difference, *resampled = np.mean(differences, axis=0)
        line |= {
            f"{name}_difference": difference,
            f"{name}_low": np.percentile(resampled, 2.5),
            f"{name}_high": np.percentile(resampled, 97.5),
            f"{name}_least": min(its[0] for its in differences),
            f"{name}_most": max(its[0] for its in differences),
        }
    return {name: v if isinstance(v, str) else round(float(v), 1) for name, v in line.items()}


if __name__ == "__main__":
    main()
