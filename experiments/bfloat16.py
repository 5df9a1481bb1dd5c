"""What computing in bfloat16 on a CPU changes: features, a probe on them, and photos a second.

    python -m experiments.bfloat16 --root=DEVKIT --weights=FILE

Deep features of the photos of trainval and test at 224 pixels, in float32 and in bfloat16, each by
a command of its own; then on both a logistic regression (:lbfgs) and its mAP on test. Differences
are of one feature, as a share of the largest that there is. Then the demo, fine-tuned in both over
three seeds, and its mAP. Writes experiments/bfloat16.csv.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from experiments import grid, tables
from experiments.speed import large_photos
from experiments.speed.processes import machine, processor

DTYPES = ("float32", "bfloat16")
SEEDS = (0, 1, 2)


def main() -> None:
    """Compute the features twice, probe them, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    options = parser.parse_args()
    computed: dict[str, np.ndarray] = {}
    rows: list[tables.Row] = []

    def keep(row: tables.Row) -> None:
        tables.show(row)
        rows.append(row | machine("jax", "jaxlib") | {"hardware": processor()})
        tables.write_csv(Path(__file__).with_suffix(".csv"), rows)

    for dtype in DTYPES:
        with tempfile.TemporaryDirectory() as directory:
            computed[dtype], made, probe = large_photos.probe(
                Path(directory), options.root, options.weights, f"--config.model.dtype={dtype}"
            )
        largest = np.abs(computed["float32"]).max()
        difference = np.abs(computed[dtype] - computed["float32"]) / largest
        keep(
            {
                "measured": "probe of its features",
                "dtype": dtype,
                "map_lab": round(100 * probe["map"]["test"]["lab"], 2),
                "images_per_second": round(made["images_per_second"], 1),
                "largest_difference": f"{difference.max():.1e}",
                "mean_difference": f"{difference.mean():.1e}",
                "photos": len(difference),
            }
        )
    for seed in SEEDS:
        for dtype in DTYPES:
            with tempfile.TemporaryDirectory() as directory:
                changes = {"model.dtype": dtype, "seed": seed}
                grid.run_finetune("demo", changes, Path(directory))
                results = grid.outcome(Path(directory))
            keep(
                {
                    "measured": f"finetune:demo, seed {seed}",
                    "dtype": dtype,
                    "map_lab": round(100 * results["map"]["test"]["lab"], 2),
                }
            )


if __name__ == "__main__":
    main()
