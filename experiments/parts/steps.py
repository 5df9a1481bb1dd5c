"""Repeat one of our steps: the seconds of each repetition, as JSON in a file.

    python -m experiments.parts.steps STEP BATCH_SIZE SIDE REPETITIONS OUT.json

STEP is a name in experiments/throughput.py. A process of its own for experiments/scaling.py, whose
peak of memory is this step's, with compilation.
"""

import json
import sys
from pathlib import Path

from experiments import throughput


def main() -> None:
    """Compile and warm up, then time the repetitions."""
    name, batch_size, side, repetitions, target = sys.argv[1:]
    step = make_step(name, int(batch_size), int(side))
    step()
    seconds = [throughput.seconds_of(step) for _ in range(int(repetitions))]
    Path(target).write_text(json.dumps(seconds))


def make_step(name: str, batch_size: int, side: int) -> throughput.Step:
    """One step on photos [batch_size, side, side, 3]."""
    if side != throughput.TORCHVISION.crop_size:
        raise SystemExit(f"experiments/throughput.py has no steps on photos of {side} pixels")
    return throughput.our_steps(batch_size)[name]


if __name__ == "__main__":
    main()
