"""Seconds from the command to the first finished training step, at a first and a second start.

    python -m experiments.speed.startup --root=DEVKIT --weights=FILE

A first start has an empty VTL_CACHE, which is where decoded photos and XLA's programs are kept; the
second is the same command with the same cache and another --workdir. Both find files that were read
lately, Python's among them, in the system's page cache. Each start is a process of its own, and is
stopped after its first step.

The phases: `imports` ends at the first printed line (Python's imports, labels, weights; the demo's
scenes at a first start); `data` when the photos are decoded and the run directory is there; `head`
when the first state is there (by default from logistic regression on the frozen features);
`first_step` includes compilation and the saving of step 0. The real commands get 8 photos. The
default's batches have 32 photos of 352 pixels nevertheless, so it spends most of its time on
pixels; in batches of 4 start-up is what is left. Writes experiments/speed/startup.csv.
"""

import argparse
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments import tables
from experiments.speed import devkits
from experiments.speed.processes import machine

PHASES = ("imports", "data", "head", "first_step")
NUM_PHOTOS, NUM_EPOCHS = 8, 8
"""Enough epochs for a second step in batches of 32, so that a stopped run has nothing to score."""


def main() -> None:
    """Start every command twice in each repetition, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        splits = {"trainval": NUM_PHOTOS, "test": NUM_PHOTOS}
        devkit = devkits.repeat_photos(options.root, scratch / "devkit", splits)
        for name, arguments in commands(devkit, options.weights).items():
            phases: dict[str, list[dict[str, float]]] = {"first": [], "second": []}
            for repetition in range(options.repetitions):
                cache = scratch / name.replace("/", "_") / str(repetition)
                for start, measured in phases.items():
                    measured.append(first_step(arguments, cache, cache / start))
            for start, measured in phases.items():
                rows.append({"command": name, "start": start, **summary(measured)})
                rows[-1] |= machine("jax", "flax", "optax", "orbax-checkpoint")
                tables.show(rows[-1])
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


def commands(devkit: Path, weights: str) -> dict[str, list[str]]:
    """Name in the table -> options of the command."""
    real = ["--config=configs/finetune.py", f"--config.num_epochs={NUM_EPOCHS}"]
    real += [f"--config.data.root={devkit}", f"--config.weights={weights}"]
    small = ["--config.batch_size=4", "--config.eval_batch_size=4"]
    return {
        "configs/finetune.py": real,
        "configs/finetune.py in batches of 4": [*real, *small],
        "configs/finetune.py:demo": ["--config=configs/finetune.py:demo"],
    }


def first_step(arguments: list[str], cache: Path, workdir: Path) -> dict[str, float]:
    """Start a run and stop it after the first step; returns the seconds of each of `PHASES`."""
    cache.mkdir(parents=True, exist_ok=True)
    printed = workdir.with_suffix(".txt")
    command = [sys.executable, "-m", "vtl.main", *arguments, f"--workdir={workdir}"]
    ends: dict[str, float] = {}
    with printed.open("w") as stdout:
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--config.log_every_steps=1"],
            env=os.environ | {"VTL_CACHE": str(cache)},
            stdout=stdout,
        )
        while "first_step" not in ends:
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended before its first step")
            time.sleep(0.02)
            for phase in finished(workdir, printed):
                ends.setdefault(phase, time.perf_counter() - start)
        process.send_signal(signal.SIGTERM)
        process.wait()
    marks = [0.0, *(ends[phase] for phase in PHASES)]
    spans = zip(PHASES, itertools.pairwise(marks), strict=True)
    return {phase: end - begin for phase, (begin, end) in spans}


def finished(workdir: Path, printed: Path) -> list[str]:
    """The phases of a run that its files show to be over."""
    metrics = workdir / "held_out" / "metrics.jsonl"  # of the trial, which comes first
    if not metrics.exists():
        metrics = workdir / "metrics.jsonl"
    signs = (
        printed.stat().st_size > 0,
        (workdir / "config.json").exists(),
        metrics.exists(),
        metrics.exists() and '"loss"' in metrics.read_text(),
    )
    return [phase for phase, sign in zip(PHASES, signs, strict=True) if sign]


def summary(measured: list[dict[str, float]]) -> dict[str, object]:
    """Medians over repetitions, in seconds, and the range of the sum."""
    totals = [sum(seconds.values()) for seconds in measured]
    medians = {
        phase: round(float(np.median([seconds[phase] for seconds in measured])), 2)
        for phase in PHASES
    }
    return {
        "seconds": round(float(np.median(totals)), 2),
        "range": f"{min(totals):.2f} to {max(totals):.2f}",
        **medians,
    }


if __name__ == "__main__":
    main()
