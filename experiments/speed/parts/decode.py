"""Decode a folder of JPEGs once into an empty cache: wall and CPU seconds, as JSON in a file.

    python -m experiments.speed.parts.decode PHOTOS SIDE CACHE OUT.json

experiments/speed/scaling.py runs this as a process of its own. It does not import JAX, so that its
memory is that of decoding alone.
"""

import json
import sys
from pathlib import Path

from experiments.speed.processes import seconds_of
from vtl.data import images


def main() -> None:
    """Decode, and write how long it took."""
    photos, side, cache, target = sys.argv[1:]
    paths = sorted(Path(photos).iterdir())

    def decode() -> None:
        images.decode_once(
            paths,
            [path.stem for path in paths],
            size=int(side),
            rule="resize_crop",
            interpolation="bilinear",
            directory=Path(cache),
        )

    Path(target).write_text(json.dumps([seconds_of(decode)]))


if __name__ == "__main__":
    main()
