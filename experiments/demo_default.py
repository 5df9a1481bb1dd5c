"""The default of configs/finetune.py:demo beside that of vtl 0.1, with many and with few scenes.

    python -m experiments.demo_default --out=runs/demo_default

Trains on trainval (500 scenes) and on its first 30 % with three seeds, and scores on test by the
protocol `lab`. "gain" is paired over the scenes, its interval that of a bootstrap over them. Each
run resumes where it stopped; all of them take a quarter of an hour on 2 CPU cores. Writes
experiments/demo_default.csv.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from experiments import grid, tables
from vtl import files
from vtl.evaluation import metrics

SPLITS = ("trainval", "trainval30")
RECIPES: dict[str, grid.Overrides] = {"0.1": grid.OF_VERSION_0_1, "default": {}}
SEEDS = (0, 1, 2)


def main() -> None:
    """Run everything, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo_default"))
    options = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", str(files.cache_dir() / "xla"))
    rows = []
    for split in SPLITS:
        runs = {}
        for name, recipe in RECIPES.items():
            runs[name] = [options.out / f"{split}_{name}_{seed}" for seed in SEEDS]
            for seed, run in zip(SEEDS, runs[name], strict=True):
                overrides = recipe | {"seed": seed, "data.train_split": split}
                grid.run_finetune("demo", overrides, run)
            rows.append(row(split, name, runs))
        tables.write_csv(Path(__file__).with_suffix(".csv"), rows)
    for line in rows:
        tables.show(line)


def row(split: str, name: str, runs: dict[str, list[Path]]) -> tables.Row:
    """One line of the table, in percent."""
    results = [grid.outcome(run) for run in runs[name]]
    maps = [100 * result["map"]["test"]["lab"] for result in results]
    ours, labels, _ = grid.side_by_side(runs[name])
    theirs, _, _ = grid.side_by_side(runs["0.1"])
    gain, low, high = metrics.paired_difference(ours, theirs, labels, None, "lab")
    return {
        "train_split": split,
        "recipe": name,
        "map": f"{np.mean(maps):.1f}",
        "lowest": f"{min(maps):.1f}",
        "highest": f"{max(maps):.1f}",
        "gain": f"{100 * gain:.1f}",
        "gain_low": f"{100 * low:.1f}",
        "gain_high": f"{100 * high:.1f}",
        "seeds": len(maps),
        "commit": results[0]["commit"],
    }


if __name__ == "__main__":
    main()
