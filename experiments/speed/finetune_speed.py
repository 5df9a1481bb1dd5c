"""Seconds of fine-tuning on a set of VOC2007's size, whole commands, at a first and a second start.

    python -m experiments.speed.finetune_speed --root=DEVKIT --weights=FILE

Trains on 5,011 photos and tests on 4,952, which repeat those of DEVKIT. Its mAP means nothing,
because the same photos are in both splits. A first start has an empty VTL_CACHE, and so decodes
every photo and compiles every program; the second is the same command with the same cache and
another --workdir. The columns `data` (labels, weights, photos), `head`, `train` (with the scores
and checkpoints of its epochs) and `evaluate` are the times that vtl measures itself; `imports` is
the rest. Writes experiments/speed/finetune_speed.csv.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from experiments import tables
from experiments.speed import bench, devkits
from experiments.speed.processes import watch

PHASES = ("data", "head", "train", "evaluate")


def main() -> None:
    """Run both starts and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument(
        "--photos", type=int, nargs=2, default=(5011, 4952), metavar=("TRAIN", "TEST")
    )
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        # bench turns this off for the peers' sake; a run by itself may take the GPU's memory.
        environment = os.environ | {"VTL_CACHE": str(scratch / "cache")}
        environment |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}
        splits = dict(zip(("trainval", "test"), options.photos, strict=True))
        devkit = devkits.repeat_photos(options.root, scratch / "devkit", splits)
        for start in ("first", "second"):
            workdir = scratch / start
            command = [sys.executable, "-m", "vtl.main", "--config=configs/finetune.py"]
            command += [f"--config.data.root={devkit}", f"--config.weights={options.weights}"]
            command += [f"--config.num_epochs={options.epochs}", f"--workdir={workdir}"]
            command += [f"--config.batch_size={options.batch_size}"]
            command += [f"--config.data.image_size={options.image_size}"]
            command += [f"--config.model.dtype={options.dtype}"]
            seconds, peak = watch(command, environment)
            results = json.loads((workdir / "results.json").read_text())
            phases = {phase: round(results["seconds"][phase], 1) for phase in PHASES}
            rows.append(
                {
                    "start": start,
                    "seconds": round(seconds, 1),
                    "imports": round(seconds - sum(phases.values()), 1),
                    **phases,
                    "images_per_second": round(results["images_per_second"], 1),
                    "peak_anonymous_mib": round(peak),
                    "photos": " + ".join(map(str, options.photos)),
                    "epochs": options.epochs,
                    "batch_size": options.batch_size,
                    "image_size": options.image_size,
                    "dtype": options.dtype,
                    **bench.machine(("jax", "jaxlib")),
                }
            )
            tables.show(rows[-1])
            tables.write_csv(options.out, rows)


if __name__ == "__main__":
    main()
