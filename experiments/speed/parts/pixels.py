"""Decode one photo many times on one core: wall and CPU seconds, as JSON in a file.

    python -m experiments.speed.parts.pixels PHOTO DECODE TIMES OUT.json

experiments/speed/scaling.py runs this as a process of its own. It does not import JAX, so that its
memory is that of decoding alone.
"""

import json
import sys
from pathlib import Path

from experiments.speed.processes import seconds_of
from vtl.data import images

SIDE = 256


def main() -> None:
    """Decode, and write how long it took."""
    photo, decode, times, target = sys.argv[1:]

    def decode_all() -> None:
        for _ in range(int(times)):
            images.load_resized(photo, SIDE, "resize_crop", "bilinear", decode)

    Path(target).write_text(json.dumps([seconds_of(decode_all)]))


if __name__ == "__main__":
    main()
