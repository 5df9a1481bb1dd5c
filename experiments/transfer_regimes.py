"""What pretraining is worth on the demo: scratch, linear probe, partial and full fine-tuning.

    python -m experiments.transfer_regimes

Each regime trains on all labels of trainval, on the first 30 % and on the first 10 % of them, with
three seeds. It does so at its own best of `CANDIDATES` for that many labels, and is scored on test
by the protocol `voc2010`. The best candidate is the one with the highest mAP on val: for all labels
after training on train; the first 10 and 30 % lie in train. With equally many labels, the three
regimes that train the network take equally many steps, 20 passes over trainval, in the search as
well. Each run resumes where it stopped; all of them take about an hour on 2 CPU cores. Writes
transfer_regimes.csv, the search in transfer_regimes_search.csv, and the curves in
transfer_regimes.svg.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np

from configs import finetune as finetune_config
from experiments import grid, tables
from vtl import files
from vtl.data import demo
from vtl.errors import Diverged
from vtl.evaluation import metrics

_HEAD = ("fc/.*", 1.0)
REGIMES: dict[str, grid.Overrides] = {
    "scratch": {"weights": "", "head": "random", "batch_norm": "batch", "optim.warmup_steps": 20},
    # The next two start from logistic regression; one step at rate 0 leaves it as it is.
    "probe": {
        "optim.rules": (_HEAD, (".*", None)),
        "num_epochs": 0.0,
        "optim.learning_rate": 0.0,
    },
    "partial": {"optim.rules": (_HEAD, ("layer4_.*", 1.0), (".*", None))},
    "full": {},
}
"""What each changes of configs/finetune.py:demo."""

CANDIDATES: dict[str, tuple[str, tuple[float, ...]]] = {
    "scratch": ("optim.learning_rate", (0.01, 0.03, 0.1, 0.3, 1.0)),
    "probe": ("head_l2", (0.003, 0.01, 0.03, 0.1)),
    "partial": ("optim.learning_rate", (0.02, 0.05, 0.1, 0.2, 0.4)),
    "full": ("optim.learning_rate", (0.01, 0.02, 0.05, 0.1)),
}
NUM_EPOCHS = 20.0
SEEDS = (0, 1, 2)
PERCENTS = (*demo.PERCENTS, 100)
PROTOCOL = "voc2010"


def main() -> None:
    """Choose, run everything, write the tables and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/regimes"))
    options = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", str(files.cache_dir() / "xla"))
    rows: list[dict[str, Any]] = []
    search: list[dict[str, Any]] = []
    chosen: dict[int, dict[str, float]] = {}
    for percent in reversed(PERCENTS):
        tried = try_candidates(options.out, percent)
        chosen[percent] = {
            regime: max((t for t in tried if t["regime"] == regime), key=lambda t: t["val_map"])[
                "value"
            ]
            for regime in REGIMES
        }
        runs = {
            regime: [run_regime(options.out, regime, value, percent, seed) for seed in SEEDS]
            for regime, value in chosen[percent].items()
        }
        rows += [row(regime, chosen[percent][regime], percent, runs) for regime in REGIMES]
        search += [t | {"val_map": f"{100 * t['val_map']:.2f}"} for t in tried]
        tables.write_csv(Path(__file__).with_suffix(".csv"), rows)
        tables.write_csv(Path(__file__).with_name("transfer_regimes_search.csv"), search)
    draw(rows, {regime: _curves(options.out, regime, chosen[100]) for regime in REGIMES})
    for line in rows:
        tables.show(line)


def try_candidates(out: Path, percent: int) -> list[dict[str, Any]]:
    """The mAP on val of every candidate at its last step, or 0 if the loss diverged."""
    split, num_epochs = f"trainval{percent}", NUM_EPOCHS
    if percent == 100:
        split = "train"
        num_epochs *= (demo.SPLITS["train"] + demo.SPLITS["val"]) / demo.SPLITS["train"]
    rows: list[dict[str, Any]] = []
    for regime, (knob, values) in CANDIDATES.items():
        for value in values:
            overrides = {"data.train_split": split, "data.test_split": "val", knob: value}
            run = out / f"search_{regime}_{value}_{percent}"
            rows.append({"percent_of_labels": percent, "regime": regime, "knob": knob})
            rows[-1] |= {"value": value, "val_map": 0.0}
            try:
                _run(regime, {"num_epochs": num_epochs, **overrides}, run)
            except Diverged:
                continue
            results = grid.outcome(run)
            rows[-1] |= {"val_map": results["map"]["test"][PROTOCOL], "commit": results["commit"]}
    return rows


def run_regime(out: Path, regime: str, value: float, percent: int, seed: int) -> Path:
    """The directory of one run on a share of the labels; all seeds have the same photos."""
    base = finetune_config.get_config("demo")
    split = base.data.train_split + (str(percent) if percent < 100 else "")
    overrides = {"seed": seed, "data.train_split": split, CANDIDATES[regime][0]: value}
    overrides |= {"num_epochs": NUM_EPOCHS, "test_every_epoch": percent == 100}
    run = out / f"{regime}_{value}_{percent}_{seed}"
    _run(regime, overrides, run)
    return run


def _run(regime: str, overrides: grid.Overrides, run: Path) -> None:
    grid.run_finetune("demo", grid.OF_VERSION_0_1 | overrides | REGIMES[regime], run)


def row(regime: str, value: float, percent: int, runs: dict[str, list[Path]]) -> dict[str, Any]:
    """One line of the table; "above scratch" is paired over photos and averaged over seeds."""
    results = [grid.outcome(run) for run in runs[regime]]
    maps = [100 * r["map"]["test"][PROTOCOL] for r in results]
    ours, labels, difficult = grid.side_by_side(runs[regime])
    theirs, _, _ = grid.side_by_side(runs["scratch"])
    above = [100 * v for v in metrics.paired_difference(ours, theirs, labels, difficult, PROTOCOL)]
    return {
        "regime": regime,
        "percent_of_labels": percent,
        "learning_rate_or_l2": value,
        "steps": results[0]["chosen_step"],
        "map_voc2010": f"{np.mean(maps):.1f}",
        "lowest": f"{min(maps):.1f}",
        "highest": f"{max(maps):.1f}",
        "above_scratch": f"{above[0]:.1f}",
        "above_low": f"{above[1]:.1f}",
        "above_high": f"{above[2]:.1f}",
        "seeds": len(maps),
        "commit": results[0]["commit"],
    }


def _curves(out: Path, regime: str, chosen: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Epochs [E] and the test mAP (lab) [seeds, E] of the runs on all labels, in percent."""
    curves = []
    for seed in SEEDS:
        path = out / f"{regime}_{chosen[regime]}_100_{seed}" / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        curves.append([(x["epoch"], x["test_map_lab"]) for x in lines if "test_map_lab" in x])
    epochs, maps = np.moveaxis(np.array(curves), 2, 0)
    return epochs[0], 100 * maps


def draw(rows: list[dict[str, Any]], curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """mAP by epoch and by the share of the labels: mean and range over seeds."""
    figure, (by_epoch, by_share) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for regime, (epochs, maps) in curves.items():
        if regime == "probe":
            by_epoch.axhline(maps[:, -1].mean(), color="C1", label=regime)
        else:
            color = f"C{list(REGIMES).index(regime)}"
            by_epoch.plot(epochs, maps.mean(axis=0), color, label=regime)
            low, high = maps.min(axis=0), maps.max(axis=0)
            by_epoch.fill_between(epochs, low, high, color=color, alpha=0.2, linewidth=0)
        shares = sorted(
            (r for r in rows if r["regime"] == regime), key=lambda r: r["percent_of_labels"]
        )
        mean, low, high = (
            np.array([float(share[key]) for share in shares])
            for key in ("map_voc2010", "lowest", "highest")
        )
        by_share.plot(PERCENTS, mean, marker=".", label=regime)
        by_share.fill_between(PERCENTS, low, high, alpha=0.2)
    by_epoch.set(xlabel="epoch", ylabel="mAP (lab) on test")
    by_share.set(xlabel="% of the labels", ylabel="mAP (voc2010) on test", xscale="log")
    by_share.set_xticks(PERCENTS, [str(share) for share in PERCENTS])
    by_share.minorticks_off()
    by_share.legend()
    plt.rcParams["svg.hashsalt"] = "vtl"
    figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
