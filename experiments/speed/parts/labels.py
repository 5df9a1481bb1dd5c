"""Read a table of labels and find its photos: wall and CPU seconds, as JSON in a file.

    python -m experiments.speed.parts.labels PHOTOS TABLE REPETITIONS OUT.json

experiments/speed/scaling.py runs this as a process of its own. It does not import JAX, so that its
memory is that of reading alone.
"""

import json
import sys
from pathlib import Path

from experiments.speed.processes import seconds_of
from vtl.data import splits


def main() -> None:
    """Read, which draws the splits, too, and write how long it took."""
    photos, table, repetitions, target = sys.argv[1:]
    times = [seconds_of(lambda: splits.read(photos, labels=table)) for _ in range(int(repetitions))]
    Path(target).write_text(json.dumps(times))


if __name__ == "__main__":
    main()
