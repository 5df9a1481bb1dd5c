"""What people wait for before anything is computed: help, a finished run, a start, a report.

    python -m experiments.speed.waiting

Wall and CPU seconds, each the median of five processes: of `vtl --help`; of `vtl finetune:demo` in
the directory of a run that is finished; of the demo's second start, until the first step of its
training, with photos and XLA's programs in the cache; and of the report of five fine-tunings of the
demo. They are made first, in minutes. The load is that of the last minute, before each process, in
the mean. Writes experiments/speed/waiting.csv.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments import tables
from experiments.speed import startup
from experiments.speed.processes import machine

VTL = (sys.executable, "-c", "from vtl.cli import start; start()")
NUM_RUNS = 5


def main() -> None:
    """Make the runs, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        os.environ["VTL_CACHE"] = str(scratch / "cache")
        runs = [scratch / f"run{seed}" for seed in range(NUM_RUNS)]
        for seed, run in enumerate(runs):
            measure([*_demo(run), f"--config.seed={seed}", *SHORT])
        commands = {
            "vtl --help": lambda _: measure(["--help"]),
            "vtl finetune:demo, finished": lambda _: measure([*_demo(runs[0]), *SHORT]),
            "vtl finetune:demo, second start": lambda i: _start(scratch, f"start{i}"),
            "vtl report of five runs": lambda _: measure(
                ["report", *map(str, runs), "-o", str(scratch / "page.html")]
            ),
        }
        _start(scratch, "first")  # compiles what a short run doesn't need
        for name, command in commands.items():
            loads, seconds = [], []
            for repetition in range(options.repetitions):
                loads.append(os.getloadavg()[0])
                seconds.append(command(repetition))
            wall, cpu = np.median(seconds, axis=0)
            longest = max(its for its, _ in seconds)
            rows.append({"command": name, "wall_seconds": round(float(wall), 2)})
            rows[-1] |= {"longest": round(longest, 2), "cpu_seconds": round(float(cpu), 2)}
            rows[-1] |= {"load": round(float(np.mean(loads)), 1)} | machine("jax", "flax")
            tables.show(rows[-1])
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


SHORT = ("--config.num_epochs=1", "--config.held_out=0")


def _demo(workdir: Path) -> list[str]:
    return ["finetune:demo", f"--workdir={workdir}"]


def measure(arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a whole command."""
    start, before = time.perf_counter(), os.times()
    subprocess.run([*VTL, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start, _of_children(before)


def _start(scratch: Path, name: str) -> tuple[float, float]:
    """Wall and CPU seconds until the first step, and the CPU's of the stop after it."""
    before = os.times()
    phases = startup.first_step(
        ["--config=configs/finetune.py:demo"], scratch / "cache", scratch / name
    )
    return sum(phases.values()), _of_children(before)


def _of_children(before: os.times_result) -> float:
    after = os.times()
    spans = zip(after[2:4], before[2:4], strict=True)
    return sum(end - begin for end, begin in spans)


if __name__ == "__main__":
    main()
