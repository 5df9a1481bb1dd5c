"""Networks side by side on 1,200 VOC2012 photos with an animal in them: probes and fine-tuning.

    python -m experiments.bake_off --root=DEVKIT --out=runs/bake_off \\
      --weights resnet50=FILE efficientnet_lite0 efficientnet_lite1 efficientnet_lite2

Of each network the deep features of the default (photos squashed to 448 pixels, the largest average
of 2 x 2 cells), and on these the lab's SGD probe, logistic regression and an SVM, both on square
roots; then the default of `vtl finetune`. Trained on trainval (700 photos), scored once on test
(500). "mAP" is scikit-learn's AP, averaged over the classes with at least five positives in both
splits; it is no VOC2007 figure. Of the SGD probe and of fine-tuning it is the mean over the seeds.
A name before `=` is what the table calls a file. Runs resume and finished ones are taken as they
are; `--only probes` leaves fine-tuning out, whose columns are then as they were, and `--seeds` says
which seeds it has. The fine-tuned resnet50 is that of experiments/finetune_animals.csv. Writes
experiments/bake_off.csv.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs import deep_features as features_config
from experiments import finetune_animals, grid, probe_solvers, tables
from vtl.data import deep_features
from vtl.tasks import features

SEEDS = (0, 1, 2)
PROBES = {"sgd": ("sgd", "none"), "lbfgs": ("lbfgs", "sqrt_l2"), "svm": ("svm", "sqrt_l2")}
"""Column -> solver and transform."""


def main() -> None:
    """Measure every network and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--weights", required=True, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("runs/bake_off"))
    parser.add_argument("--only", choices=("probes", "all"), default="all")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    table = Path(__file__).with_suffix(".csv")
    before = {line["name"]: line for line in tables.read_csv(table)}
    rows: dict[str, tables.Row] = dict(before)
    for named in options.weights:
        name, _, weights = named.rpartition("=")
        name = name or weights
        row = probed(name, weights, options.root, options.out / f"{name}_features")
        if options.only == "all":
            row |= finetuned(name, weights, options.root, options.out, options.seeds)
        rows[name] = dict(before.get(name, {})) | row
        tables.show(rows[name])
        tables.write_csv(table, list(rows.values()))


def probed(name: str, weights: str, root: str, workdir: Path) -> tables.Row:
    """A network's features, and the probes on them."""
    config = features_config.get_config()
    config.update_from_flattened_dict({"data.root": root, "weights": weights})
    features.run(config, workdir)
    results = grid.outcome(workdir)
    data = deep_features.read(str(workdir / results["features"]))
    row: tables.Row = {
        "name": name,
        "network": results["network"]["title"],
        "features": results["num_features"],
        "images_per_second": round(results["images_per_second"] or 0, 1),
    }
    for column, (solver, transform) in PROBES.items():
        maps = []
        for seed in SEEDS if solver == "sgd" else SEEDS[:1]:
            problem = probe_solvers.problem_of(data, transform, solver=solver, seed=seed)
            with tempfile.TemporaryDirectory() as directory:
                maps.append(probe_solvers.map_of(problem, Path(directory)))
        row[column] = round(float(np.mean(maps)), 1)
    return row | {"commit": results["commit"]}


def finetuned(name: str, weights: str, root: str, out: Path, seeds: Sequence[int]) -> tables.Row:
    """The default of `vtl finetune` over the seeds."""
    if name == "resnet50":
        measured = tables.read_csv(Path(finetune_animals.__file__).with_suffix(".csv"))
        lines: list[dict[str, Any]] = [line for line in measured if line["run"] == "default"]
    else:
        lines = []
        for seed in seeds:
            run = out / f"{name}_finetune_{seed}"
            grid.run_finetune("", {"data.root": root, "weights": weights, "seed": seed}, run)
            lines.append(finetune_animals.row("default", seed, run, grid.outcome(run)))
    maps = [float(line["map"]) for line in lines]
    seconds = [float(line["seconds"]) for line in lines if line["seconds"]]
    return {
        "finetune": round(float(np.mean(maps)), 1),
        "finetune_lowest": min(maps),
        "finetune_highest": max(maps),
        "finetune_seeds": len(lines),
        "finetune_seconds": round(float(np.mean(seconds))),
        "finetune_commit": " ".join(sorted({str(line["commit"]) for line in lines})),
    }


if __name__ == "__main__":
    main()
