"""Repeat one of our steps: wall and CPU seconds of each repetition, as JSON in a file.

    python -m experiments.speed.parts.steps STEP BATCH_SIZE SIDE DTYPE REPETITIONS OUT.json

STEP is a name in experiments/speed/bench.py. experiments/speed/scaling.py runs this as a process of
its own, so that its peak of memory is that of this step, compilation included.
"""

import json
import sys
from pathlib import Path

from experiments.speed import bench, throughput
from experiments.speed.processes import seconds_of


def main() -> None:
    """Compile and warm up, then time the repetitions."""
    bench.as_in_training()
    name, batch_size, side, dtype, repetitions, target = sys.argv[1:]
    setting = bench.Setting(int(batch_size), int(side), dtype=dtype)
    step = throughput.our_makers(setting)[name]()
    step()
    Path(target).write_text(json.dumps([seconds_of(step) for _ in range(int(repetitions))]))


if __name__ == "__main__":
    main()
