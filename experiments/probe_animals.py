"""The linear probe on 1,200 VOC2012 photos with an animal in them: SGD by epochs, and L-BFGS.

    python -m experiments.probe_animals --features=runs/features/DF_ResNet50_VOC2007.npz

The features are of photos squashed to 224 pixels, and averaged (configs/deep_features.py with
`--config.data.image_size=224 --config.pooling=average`); they are taken as they are. "mAP" is
scikit-learn's AP on test, averaged over the classes with at least five positives in both splits.
--head_run takes a finished run of configs/finetune.py:head on the same photos, and adds its paired
difference to the probe of as many epochs. Takes a few
minutes on 2 CPU cores; writes experiments/probe_animals.csv and experiments/probe_animals_head.csv.
"""

import argparse
import tempfile
from pathlib import Path

import jax
import numpy as np

from configs import linear_probe as probe_config
from experiments import grid, tables
from vtl.data import deep_features
from vtl.evaluation import metrics, outcome
from vtl.tasks import probe
from vtl.training import fit_linear

EPOCHS = (10, 20, 50, 100)
NUM_SEEDS = 5


def run_probe(variant: str, overrides: grid.Overrides, run: Path) -> float:
    """Train one probe; returns its mAP on test in percent."""
    config = probe_config.get_config(variant)
    config.update_from_flattened_dict(overrides)
    probe.run(config.lock(), run)
    return 100 * grid.frequent_map(run, "test")


def main() -> None:
    """Train every probe and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", required=True)
    parser.add_argument("--head_run", type=Path)
    options = parser.parse_args()
    common: grid.Overrides = {"features": options.features}
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        runs = Path(directory)
        for epochs in EPOCHS:
            maps = [
                run_probe(
                    "",
                    common | {"num_epochs": float(epochs), "seed": seed},
                    runs / f"sgd_{epochs}_{seed}",
                )
                for seed in range(NUM_SEEDS)
            ]
            rows.append(row("sgd", epochs, maps))
        plain = common | {"transform": "none"}
        rows.append(row("lbfgs", "", [run_probe("lbfgs", plain, runs / "lbfgs")]))
        table = Path(__file__).with_suffix(".csv")
        write(table, rows)
        if options.head_run:
            differences = compare(options.head_run, runs / "sgd_20_0", options.features)
            write(table.with_stem("probe_animals_head"), differences)


def write(path: Path, rows: list[dict[str, object]]) -> None:
    """Write a table and show it."""
    tables.write_csv(path, rows)
    for line in rows:
        tables.show(line)


def row(solver: str, epochs: int | str, maps: list[float]) -> dict[str, object]:
    """One line of the table."""
    return {
        "solver": solver,
        "epochs": epochs,
        "map": round(float(np.mean(maps)), 1),
        "lowest": round(min(maps), 1),
        "highest": round(max(maps), 1),
        "seeds": len(maps),
    }


def compare(head_run: Path, probe_run: Path, features: str) -> list[dict[str, object]]:
    """How far a run of :head is from the probe, and from a probe that starts where it does.

    :head starts at zero; the probe starts at random, as Keras does. Both take the batches in the
    same order.
    """
    head, other = (np.load(run / "scores_test.npz") for run in (head_run, probe_run))
    if not np.array_equal(head["ids"], other["ids"]):
        raise SystemExit(f"{head_run} must be scored on the photos of {features}, in their order")
    splits = deep_features.read(features).splits
    train = splits["train"]
    start, order = fit_linear.seeded(
        train.features.shape, train.labels.shape[1], num_epochs=20.0, batch_size=32, seed=0
    )
    zeros = jax.tree.map(lambda leaf: 0 * leaf[None], start)
    rate, decay = np.array([[0.1], [0.0]], np.float32)
    label_mask = np.ones_like(train.labels)
    fitted, _ = fit_linear.sgd(
        train.features, train.labels, label_mask, order[None], zeros, rate, decay
    )
    head_from_zero = fit_linear.Linear(fitted.kernel[0], fitted.bias[0])
    from_zero = outcome.scores_of(probe.predict(head_from_zero, splits["test"].features))
    columns = grid.frequent_classes(probe_run, "test")
    labels = other["labels"][:, columns]
    rows: list[dict[str, object]] = []
    for start_at, scores in (("random", other["scores"]), ("zero", from_zero)):
        pair = (head["scores"][:, columns], scores[:, columns])
        difference, low, high = metrics.paired_difference(*pair, labels, None, "lab")
        rows.append(
            {
                "probe_starts_at": start_at,
                "head_minus_probe": round(100 * difference, 1),
                "low": round(100 * low, 1),
                "high": round(100 * high, 1),
                "largest_difference_of_scores": f"{np.abs(pair[0] - pair[1]).max():.1e}",
            }
        )
    return rows


if __name__ == "__main__":
    main()
