"""The demo's default beside its frozen start and vtl 0.1's recipe, with many labels and with few.

    python -m experiments.demo_default

Each recipe trains on all 500 scenes of trainval and on the first 150 of them, with three seeds, and
is scored on test by the protocol `lab`. "gain" is the default's mAP less the other's on the same
scenes, with the 95 % interval of a bootstrap over scenes, seeds side by side. Takes 22 minutes on
2 CPU cores; a run resumes where it stopped. Writes experiments/demo_default.csv.
"""

import argparse
import json
from pathlib import Path

import jax

from experiments import grid, tables
from vtl import files
from vtl.evaluation import metrics

RECIPES: dict[str, grid.Overrides] = {
    "default": {},
    "its frozen start": {"num_epochs": 0.0, "held_out": 0.0},
    "vtl 0.1": grid.OF_VERSION_0_1,
}
"""What each changes of configs/finetune.py:demo."""

SPLITS = {500: "trainval", 150: "trainval30"}
SEEDS = (0, 1, 2)
PROTOCOL = "lab"


def main() -> None:
    """Run everything, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo_default"))
    out = parser.parse_args().out
    jax.config.update("jax_compilation_cache_dir", str(files.cache_dir() / "xla"))
    rows = []
    for num_scenes, split in SPLITS.items():
        runs = {name: [out / f"{name}_{num_scenes}_{seed}" for seed in SEEDS] for name in RECIPES}
        for name, overrides in RECIPES.items():
            for seed, run in zip(SEEDS, runs[name], strict=True):
                own = {"data.train_split": split, "seed": seed}
                grid.run_finetune("demo", overrides | own, run)
            rows.append(row(name, num_scenes, runs))
            tables.show(rows[-1])
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


def row(name: str, num_scenes: int, runs: dict[str, list[Path]]) -> tables.Row:
    """One line of the table."""
    maps = [100 * grid.outcome(run)["map"]["test"][PROTOCOL] for run in runs[name]]
    found: tables.Row = {
        "recipe": name,
        "scenes": num_scenes,
        "map": f"{sum(maps) / len(maps):.1f}",
        "least": f"{min(maps):.1f}",
        "most": f"{max(maps):.1f}",
        "passes": " ".join(str(passes(run)) for run in runs[name]),
        "gain": "",
        "low": "",
        "high": "",
    }
    if name != "default":
        ours, labels, difficult = grid.side_by_side(runs["default"])
        theirs, _, _ = grid.side_by_side(runs[name])
        gain = metrics.paired_difference(ours, theirs, labels, difficult, PROTOCOL)
        found |= dict(zip(("gain", "low", "high"), (f"{100 * x:.1f}" for x in gain), strict=True))
    return found


def passes(run: Path) -> float:
    """Over the training split, of the state that was kept."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    last_step = grid.outcome(run)["chosen_step"]
    return round(max(x["epoch"] for x in map(json.loads, lines) if x["step"] <= last_step), 1)


if __name__ == "__main__":
    main()
