"""mAP of every variant of configs/finetune.py on 1,200 VOC2012 photos with an animal in them.

    python -m experiments.finetune_animals --root=DEVKIT --weights=FILE --out=runs/animals

Trains on trainval (700 photos) and scores once on test (500). "mAP" here is scikit-learn's AP,
averaged over the classes with at least five positives in both splits; it is no VOC2007 figure. The
default is run as it is; the others' photos are squashed to 224 pixels, or to 352 by the default of
vtl 0.1. Each run resumes where it stopped; all of them together take hours on 2 CPU cores, and
`--only` picks some. Writes experiments/finetune_animals.csv: the rows of the runs that are finished
in OUT, and the others as they were.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from experiments import grid, tables

OF_VERSION_0_1: grid.Overrides = grid.OF_VERSION_0_1 | {
    "data.resize": "squash",
    "data.image_size": 352,
    "num_epochs": 2.0,
    "optim.learning_rate": 0.01,
}
"""The default of vtl 0.1, on photos that are squashed."""

TORCH_RECIPE: grid.Overrides = OF_VERSION_0_1 | {
    "data.image_size": 224,
    "head": "random",
    "num_epochs": 6.0,
    "optim.learning_rate": 0.5,
    "optim.rules": (("fc/.*", 1.0), (".*", 0.1)),
    "test_every_epoch": True,
}
"""Everything from a random head: trunk 0.05, head 0.5, momentum 0.9, cosine, frozen BatchNorm."""

SQUASHED: grid.Overrides = {"data.resize": "squash"}

RUNS: dict[str, tuple[str, int, grid.Overrides]] = {
    "recipe": ("", 1, TORCH_RECIPE),
    "default": ("", 3, {}),
    "default_of_0.1": ("", 3, OF_VERSION_0_1),
    "lab": ("lab", 3, SQUASHED),
    "head": ("head", 1, SQUASHED),
    "scratch": ("scratch", 1, SQUASHED | {"weights": ""}),
}
"""Name -> variant, number of seeds, overrides."""


def main() -> None:
    """Run the chosen variants and tabulate the finished runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/animals"))
    parser.add_argument("--only", nargs="*", default=list(RUNS), choices=[*RUNS, "nothing"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    table = Path(__file__).with_suffix(".csv")
    before = {(line["run"], line["seed"]): line for line in tables.read_csv(table)}
    rows = []
    for name, (variant, num_seeds, overrides) in RUNS.items():
        for seed in range(num_seeds):
            run = options.out / f"{name}_{seed}"
            common = {"data.root": options.root, "weights": options.weights, "seed": seed}
            if name in options.only and seed in options.seeds:
                grid.run_finetune(variant, common | overrides, run)
            if results := grid.outcome(run):
                rows.append(row(name, seed, run, results))
            elif (name, str(seed)) in before:
                rows.append(before[name, str(seed)])
    tables.write_csv(table, rows)
    for name in RUNS:
        maps = [float(str(r["map"])) for r in rows if r["run"] == name]
        if maps:
            span = f"{min(maps):.1f} to {max(maps):.1f}, {len(maps)} seeds"
            print(f"{name:<10} {np.mean(maps):.1f} ({span})")


def row(name: str, seed: int, run: Path, results: dict[str, Any]) -> dict[str, object]:
    """One line of the table."""
    return {
        "run": name,
        "seed": seed,
        "map": round(100 * grid.frequent_map(run, "test"), 1),
        "steps": results["chosen_step"],
        "trainable_parameters": results["trainable_parameters"],
        "images_per_second": round(results["images_per_second"] or 0, 2),
        "seconds": round(results["seconds"]["total"]),
        "commit": results["commit"],
    }


if __name__ == "__main__":
    main()
