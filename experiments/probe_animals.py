"""The linear probe on 1,200 VOC2012 photos with an animal in them: SGD by epochs, and L-BFGS.

    python -m experiments.probe_animals --features=runs/features/DF_ResNet50_VOC2007.npz

The features are of photos squashed to 224 (configs/deep_features.py with
`--config.data.resize=squash`). "mAP" is scikit-learn's AP on test, averaged over the classes with
at least five positives in both splits. With --head_run, a finished run of configs/finetune.py:head
on the same photos, also the paired difference to the probe of as many epochs. A few minutes on 2
cores; writes experiments/probe_animals.csv.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from configs import linear_probe as probe_config
from experiments import grid
from vtl.evaluation import metrics
from vtl.tasks import probe

EPOCHS = (10, 20, 50, 100)
NUM_SEEDS = 5


def run_probe(variant: str, overrides: grid.Overrides, run: Path) -> float:
    """The sample mAP on test, in percent, of one probe."""
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
        rows.append(row("lbfgs", "", [run_probe("lbfgs", common, runs / "lbfgs")]))
        grid.write_csv(Path(__file__).with_suffix(".csv"), rows)
        for line in rows:
            print("  ".join(f"{k} {v}" for k, v in line.items()))
        if options.head_run:
            compare(options.head_run, runs / "sgd_20_0")


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


def compare(head_run: Path, probe_run: Path) -> None:
    """Print the difference of two runs' mAP over the frequent classes of the same test photos."""
    head, other = (np.load(run / "scores_test.npz") for run in (head_run, probe_run))
    if not np.array_equal(head["ids"], other["ids"]):
        raise SystemExit(f"{head_run} was not scored on the photos of these features")
    columns = grid.frequent_classes(probe_run, "test")
    difference = metrics.paired_difference(
        head["scores"][:, columns],
        other["scores"][:, columns],
        other["labels"][:, columns],
        None,
        "lab",
    )
    print(
        "mAP of {} minus the probe's: {:+.1f} [{:+.1f}, {:+.1f}]".format(
            head_run, *(100 * value for value in difference)
        )
    )


if __name__ == "__main__":
    main()
