"""Photos as phones make them, decoded whole and by libjpeg's scales: how fast, and what it changes.

    python -m experiments.speed.large_photos --root=DEVKIT --weights=FILE --photos=FOLDER

Enlarges photos of the devkit to 4000 pixels on the long side, adds a sensor's grain, and keeps them
as JPEGs in a devkit of their own in FOLDER, where they stay. Then, with data.decode=exact and fast:
photos that one core decodes in a second, by CPU time; deep features at 224 pixels, a probe on them
(:lbfgs) and its mAP; and the largest differences of pixels and features. Photos that were enlarged
have no finer detail than the grain: a phone's have. Writes experiments/speed/large_photos.csv.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments import tables
from experiments.speed.processes import machine
from vtl.data import deep_features, images

SIDE, QUALITY, GRAIN = 4000, 90, 6.0
SPLITS = ("trainval", "test")
SIZES = {"224": (256, "resize_crop"), "448": (448, "squash")}
"""What is stored of a photo at evaluation, for a network that sees so many pixels."""


def main() -> None:
    """Make the photos if they aren't there, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--num-photos", type=int, default=150, help="of each split")
    parser.add_argument("--num-timed", type=int, default=24)
    options = parser.parse_args()
    if not options.photos.exists():
        enlarge(options.root, options.photos, options.num_photos)
    paths = sorted((options.photos / "JPEGImages").iterdir())
    timed = paths[:: max(1, len(paths) // options.num_timed)]
    rows, pixels, features = [], {}, {}
    for decode in images.DECODE:
        row = {"decode": decode, "photos": len(paths)}
        row["megabytes"] = round(np.mean([path.stat().st_size for path in paths]) / 1e6, 2)
        for name, (size, rule) in SIZES.items():
            start = time.process_time()
            found = [images.load_resized(path, size, rule, "bilinear", decode) for path in timed]
            seconds = time.process_time() - start
            pixels[decode, name] = np.stack(found).astype(int)
            row[f"photos_per_second_at_{name}"] = round(len(timed) / seconds, 1)
            difference = np.abs(pixels[decode, name] - pixels[images.EXACT, name])
            row[f"mean_pixel_difference_at_{name}"] = round(float(difference.mean()), 3)
            row[f"largest_pixel_difference_at_{name}"] = int(difference.max())
        workdir = options.photos.with_name(f"{options.photos.name}_{decode}")
        features[decode], _, outcome = probe(
            workdir, options.photos, options.weights, f"--config.data.decode={decode}"
        )
        row["map_lab"] = round(outcome["map"]["test"]["lab"], 4)
        row["interval"] = " to ".join(f"{x:.4f}" for x in outcome["map_interval"]["test"]["lab"])
        largest = np.abs(features[decode] - features[images.EXACT]).max()
        row["largest_feature_difference"] = round(float(largest), 4)
        row["largest_feature"] = round(float(features[decode].max()), 4)
        row["load"] = round(os.getloadavg()[0], 1)
        rows.append(row | machine("jax", "pillow"))
        tables.show(rows[-1])
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


def enlarge(root: Path, into: Path, num_photos: int) -> None:
    """The first photos of each split, 4000 pixels long, with their labels."""
    (into / "ImageSets" / "Main").mkdir(parents=True)
    (into / "JPEGImages").mkdir()
    grain = np.random.default_rng(0).normal(0, GRAIN, (SIDE, SIDE)).round().astype(np.int16)
    for split in SPLITS:
        listed = (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split()[:num_photos]
        for path in (root / "ImageSets" / "Main").glob(f"*{split}.txt"):
            lines = path.read_text().splitlines(keepends=True)
            kept = "".join(line for line in lines if line.split()[0] in listed)
            (into / "ImageSets" / "Main" / path.name).write_text(kept)
        for photo_id in listed:
            with Image.open(root / "JPEGImages" / f"{photo_id}.jpg") as photo:
                factor = SIDE / max(photo.size)
                sides = round(photo.width * factor), round(photo.height * factor)
                large = np.asarray(photo.convert("RGB").resize(sides, Image.Resampling.BICUBIC))
            grainy = large.astype(np.int16) + grain[: sides[1], : sides[0], None]
            large_photo = Image.fromarray(grainy.clip(0, 255).astype(np.uint8))
            large_photo.save(into / "JPEGImages" / f"{photo_id}.jpg", quality=QUALITY)


def probe(
    workdir: Path, root: Path, weights: Path, *options: str
) -> tuple[np.ndarray, dict[str, Any], dict[str, Any]]:
    """The features [N, D] of all photos at 224 pixels, their results, and those of a probe on them.

    The options are those of `vtl deep_features`.
    """
    lab = ("--config.data.image_size=224", "--config.data.resize=resize_crop")
    of_data = (f"--config.data.root={root}", f"--config.weights={weights}")
    seen = (*lab, "--config.pooling=average", *options)
    _run("deep_features", workdir / "features", *of_data, *seen)
    (path,) = (workdir / "features").glob("DF_*.npz")
    _run("linear_probe:lbfgs", workdir / "probe", f"--config.features={path}")
    found = deep_features.read(path)
    of_both = np.concatenate([found.splits[role].features for role in ("train", "test")])
    return of_both, *(
        json.loads((workdir / name / "results.json").read_text()) for name in ("features", "probe")
    )


def _run(task: str, workdir: Path, *options: str) -> None:
    vtl = (sys.executable, "-c", "from vtl.cli import start; start()", task)
    subprocess.run([*vtl, f"--workdir={workdir}", *options], check=True)


if __name__ == "__main__":
    main()
