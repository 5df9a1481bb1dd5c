"""What pretraining is worth on the demo: scratch, linear probe, partial and full fine-tuning.

    pip install -e ".[plots]" && python -m experiments.transfer_regimes

All have the same budget of steps, at the rate of `RATES` that was best on val (trained on train);
then they train on trainval and are scored on test, with three seeds, and with 10 and 30 % of the
labels. Each run goes on from where it was. Writes experiments/transfer_regimes.csv, what was
chosen among in transfer_regimes_search.csv, and the curves in transfer_regimes.svg.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np

from configs import finetune as finetune_config
from experiments import grid
from vtl.data import fetch
from vtl.evaluation import metrics

REGIMES: dict[str, grid.Overrides] = {
    "scratch": {"weights": "", "head": "random", "batch_norm": "batch"},
    "probe": {"optim.rules": (("fc/.*", 1.0), (".*", None))},
    "partial": {"optim.rules": (("fc/.*", 1.0), ("layer4_.*", 1.0), (".*", None))},
    "full": {},
}
"""What each changes of configs/finetune.py:demo; the last three start from the same probe."""

RATES = {
    "scratch": (0.003, 0.01, 0.02, 0.05, 0.1),
    "probe": (0.05,),
    "partial": (0.05, 0.1),
    "full": (0.02, 0.05),
}
SEEDS = (0, 1, 2)
PERCENTS = (100, 30, 10)


def main() -> None:
    """Choose the rates, run everything, write the tables and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/regimes"))
    options = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", str(fetch.cache_dir() / "xla"))
    rates = choose_rates(options.out)
    rows = []
    for percent in PERCENTS:
        for seed in SEEDS:
            for regime in REGIMES:
                run_regime(options.out, regime, rates[regime], percent, seed)
            rows += [row(options.out, regime, rates[regime], percent, seed) for regime in REGIMES]
            grid.write_csv(Path(__file__).with_suffix(".csv"), rows)
    draw(options.out, rows)
    for row_ in rows:
        print("  ".join(f"{name} {value}" for name, value in row_.items()))


def choose_rates(out: Path) -> dict[str, float]:
    """The rate of each regime that was best on val at its last step, and the table of all."""
    rows = []
    for regime, rates in RATES.items():
        for rate in rates:
            run = out / f"search_{regime}_{rate}"
            splits = {"data.train_split": "train", "data.val_split": "", "data.test_split": "val"}
            overrides = {**REGIMES[regime], **splits, "optim.learning_rate": rate}
            grid.run_finetune("demo", overrides, run)
            score = round(100 * grid.outcome(run)["map"]["test"]["voc2010"], 1)
            rows.append({"regime": regime, "learning_rate": rate, "val_map_voc2010": score})
    grid.write_csv(Path(__file__).with_name("transfer_regimes_search.csv"), rows)
    return {
        regime: max(
            (r for r in rows if r["regime"] == regime), key=lambda r: float(r["val_map_voc2010"])
        )["learning_rate"]
        for regime in REGIMES
    }


def run_regime(out: Path, regime: str, rate: float, percent: int, seed: int) -> None:
    """One run, of as many steps whatever the share of the labels."""
    overrides: grid.Overrides = {**REGIMES[regime], "optim.learning_rate": rate, "seed": seed}
    if percent == 100:
        overrides["test_every_epoch"] = True
    else:
        full = finetune_config.get_config("demo")
        overrides["data.train_split"] = f"{full.data.train_split}{percent}"
        overrides["num_epochs"] = full.num_epochs * 100 / percent
    grid.run_finetune("demo", overrides, out / f"{regime}_{percent}_{seed}")


def row(out: Path, regime: str, rate: float, percent: int, seed: int) -> dict[str, Any]:
    """One line of the table; the interval of "above scratch" is paired over images."""
    run, scratch = (out / f"{name}_{percent}_{seed}" for name in (regime, "scratch"))
    results = grid.outcome(run)
    interval = results["map_interval"]["test"]["voc2010"]
    a, b = (np.load(path / "scores_test.npz") for path in (run, scratch))
    above = metrics.paired_difference(
        a["scores"], b["scores"], a["labels"], a["difficult"], "voc2010", seed=seed
    )
    return {
        "regime": regime,
        "percent_of_labels": percent,
        "seed": seed,
        "learning_rate": rate,
        "map_voc2010": round(100 * results["map"]["test"]["voc2010"], 1),
        "low": round(100 * interval[0], 1),
        "high": round(100 * interval[1], 1),
        "above_scratch": round(100 * above[0], 1),
        "above_low": round(100 * above[1], 1),
        "above_high": round(100 * above[2], 1),
        "seconds": round(results["seconds"]["total"]),
        "commit": results["commit"],
    }


def draw(out: Path, rows: list[dict[str, Any]]) -> None:
    """mAP by epoch, protocol `lab`, and by the share of the labels, `voc2010`: mean and range."""
    figure, (by_epoch, by_share) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for regime in REGIMES:
        curves = [_curve(out / f"{regime}_100_{seed}") for seed in SEEDS]
        _band(by_epoch, curves[0][0], 100 * np.array([maps for _, maps in curves]), regime)
        maps = [
            [
                r["map_voc2010"]
                for r in rows
                if (r["regime"], r["percent_of_labels"]) == (regime, share)
            ]
            for share in PERCENTS
        ]
        _band(by_share, np.array(PERCENTS), np.array(maps).T, regime)
    by_epoch.set(xlabel="epoch", ylabel="mAP (lab) on test")
    by_share.set(xlabel="% of the labels", ylabel="mAP (voc2010) on test", xscale="log")
    by_share.set_xticks(PERCENTS, [str(share) for share in PERCENTS])
    by_share.minorticks_off()
    by_share.legend()
    plt.rcParams["svg.hashsalt"] = "vtl"
    figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})


def _curve(run: Path) -> tuple[np.ndarray, np.ndarray]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scored = [(line["epoch"], line["test_map_lab"]) for line in lines if "test_map_lab" in line]
    epochs, maps = np.array(scored).T
    return epochs, maps


def _band(axes: Any, x: np.ndarray, y: np.ndarray, label: str) -> None:
    axes.plot(x, y.mean(axis=0), label=label, marker="." if len(x) < 5 else None)
    axes.fill_between(x, y.min(axis=0), y.max(axis=0), alpha=0.2)


if __name__ == "__main__":
    main()
