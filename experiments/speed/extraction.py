"""Measure whole commands from JPEGs to features.npz: ours beside a careful PyTorch script.

    python -m experiments.speed.extraction --root=DEVKIT --weights=FILE

This needs the extra `parity`. Each repetition is a process of its own with an empty cache of
photos, so that start-up and decoding count. Only the first of ours compiles; the first repetition
is left out of the median. Memory is the peak of the anonymous resident memory of the process and
its children. Writes experiments/speed/extraction.csv.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from experiments import tables
from experiments.speed.processes import machine, watch

SIDE = 224


def main() -> None:
    """Measure both and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        measured: dict[str, list[tuple[float, float]]] = {"vtl": [], "pytorch": []}
        for _ in range(1 + options.repetitions):
            shutil.rmtree(scratch / "run", ignore_errors=True)
            shutil.rmtree(scratch / "cache" / "images", ignore_errors=True)
            ours = [
                *("-m", "vtl.main", "--config=configs/deep_features.py"),
                *(f"--workdir={scratch / 'run'}", f"--config.data.root={options.root}"),
                *(f"--config.weights={options.weights}", "--config.data.resize=squash"),
            ]
            theirs = ["-m", "experiments.speed.peers.torch_features", options.root, options.weights]
            theirs += [str(scratch / "torch.npz"), str(SIDE)]
            environment = os.environ | {"VTL_CACHE": str(scratch / "cache")}
            measured["vtl"].append(watch([sys.executable, *ours], environment))
            measured["pytorch"].append(watch([sys.executable, *theirs], environment))
        (path,) = (scratch / "run").glob("*.npz")
        with np.load(path) as ours_saved, np.load(scratch / "torch.npz") as theirs_saved:
            keys = ("X_train", "X_test")
            num_photos = sum(len(ours_saved[key]) for key in keys)
            error = max(relative_difference(ours_saved[key], theirs_saved[key]) for key in keys)
    rates = {
        peer: [num_photos / seconds for seconds, _ in runs[1:]] for peer, runs in measured.items()
    }
    rows = []
    for peer, runs in measured.items():
        rows.append(
            {
                "peer": peer,
                "photos": num_photos,
                "photos_per_second": round(float(np.median(rates[peer])), 2),
                "range": f"{min(rates[peer]):.2f} to {max(rates[peer]):.2f}",
                "first": round(num_photos / runs[0][0], 2),
                "ratio": round(float(np.median(rates[peer]) / np.median(rates["pytorch"])), 2),
                "peak_anonymous_mib": round(max(peak for _, peak in runs)),
                "largest_difference": f"{error:.1e}",
                **machine("jax", "torch", "numpy", "pillow"),
            }
        )
        tables.show(rows[-1])
    tables.write_csv(options.out, rows)


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, over their largest feature."""
    return float(np.abs(ours - theirs).max() / theirs.max())


if __name__ == "__main__":
    main()
