"""How cost grows: seconds of the wall and of the CPU, and peak anonymous memory, on the CPU.

    python -m experiments.speed.scaling --root=DEVKIT --weights=FILE

`--parts=decode,classes` measures only these parts, and leaves the rows of the others as they are,
with the commit that they were measured at. Only the part photos needs DEVKIT and FILE.

photos: extraction as a whole command, over the number of photos, which repeat those of DEVKIT. The
cache holds XLA's programs and no photo.

decode: decoding alone, over the number of drawn JPEGs of 500 x 375 pixels. They are stored at 64
pixels and not at 256, where 100,000 would take 19.7 GB.

labels: reading a table of labels, a column a class of 20, and finding its photos, over their
number. The photos are empty files.

pixels: decoding to 256 pixels on one core, by exact and by fast, over the size of drawn JPEGs of
4:3, quality 90.

classes: scoring 50,000 photos, over the number of classes. The logits are drawn. thresholds: the
same, of calibration alone, and of calibration and thresholds with their intervals.

report: `vtl report` of a probe that scored so many photos, over the number of classes.

steps: evaluation, and training with frozen BatchNorm, of a ResNet-50, over the side in pixels, the
batch size and the type of the activations.

devices: evaluation and training at 224 pixels in batches of 16, over the number of devices. They
are virtual: they share the cores and the batch, and so show what splitting a batch costs, not how
much faster more devices are.

Every measurement is a process of its own, and memory is its peak, compilation included. Writes
experiments/speed/scaling.csv.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from experiments import tables
from experiments.speed import devkits
from experiments.speed.processes import machine, watch
from vtl.data import drawing
from vtl.data.images import DECODE

TABLE = Path(__file__).with_suffix(".csv")
STORED_SIDE, DRAWN_SIDE = 256, 64
"""Side in pixels of a cached photo: in extraction, and in the decoding of drawn photos."""

NUM_DRAWN = 200
FEATURES_BYTES = 4 * 2048
MEGAPIXELS = (0.2, 1, 3, 6, 12)
NUM_DECODED = 24
"""How often a photo of each size is decoded."""

NUM_LABELS = 20
"""Columns of the table of labels."""

NUM_SCORED = 50_000
SCORED = ("AP, mAP, intervals", "answers, intervals")
THRESHOLDS = ("calibration", "calibration, thresholds, intervals")
"""What is measured of scoring: names in experiments/speed/parts/scoring.py."""

EVALUATION, TRAINING = "evaluation", "training, everything, BatchNorm frozen"
STEPS = (
    *((EVALUATION, side, batch_size) for side in (224, 448) for batch_size in (8, 32)),
    (TRAINING, 224, 16),
)
"""Step, side in pixels, batch size."""

Measure = Callable[[argparse.Namespace, Path], Iterator[tables.Row]]
Times = list[tuple[float, float]]
"""Wall and CPU seconds of each repetition."""


def main() -> None:
    """Measure the chosen parts, and write the table after each row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--photos", default="1000,10000", help="N of the part photos")
    parser.add_argument("--drawn", default="1000,10000,100000", help="N of decode and of labels")
    parser.add_argument("--classes", default="20,100,1000", help="C of classes, thresholds, report")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts must be among {', '.join(PARTS)}, got '{min(unknown)}'")
    if "photos" in parts and not (options.root and options.weights):
        parser.error("--parts=photos needs --root and --weights")
    for part in parts:
        rows = []
        with tempfile.TemporaryDirectory() as directory:
            for measured in PARTS[part](options, Path(directory)):
                rows.append({"part": part} | measured | machine("jax", "numpy", "pillow"))
                rows[-1]["load"] = round(os.getloadavg()[0], 1)
                tables.show(rows[-1])
                tables.write_csv(TABLE, replace_part(tables.read_csv(TABLE), part, rows))


def replace_part(rows: list[tables.Row], part: str, measured: list[tables.Row]) -> list[tables.Row]:
    """The rows, with those of one part replaced, in the order of `PARTS`."""
    kept = [row for row in rows if row["part"] != part]
    return sorted(kept + measured, key=lambda row: list(PARTS).index(row["part"]))


def measure_photos(options: argparse.Namespace, scratch: Path) -> Iterator[tables.Row]:
    """Extraction, whole commands, by the number of photos."""
    counts = numbers(options.photos)
    check_free(scratch, max(counts) * (3 * STORED_SIDE**2 + 2 * FEATURES_BYTES))
    cache = scratch / "cache"

    def extract(num_photos: int) -> tuple[tuple[float, float], float]:
        devkit = scratch / f"devkit_{num_photos}"
        if not devkit.exists():
            splits = {"trainval": num_photos // 2, "test": num_photos - num_photos // 2}
            devkits.repeat_photos(options.root, devkit, splits)
        for earlier in (scratch / "run", cache / "images"):
            shutil.rmtree(earlier, ignore_errors=True)
        command = ["vtl.main", "--config=configs/deep_features.py"]
        command += [f"--config.data.root={devkit}", f"--config.weights={options.weights}"]
        return whole([*command, f"--workdir={scratch / 'run'}"], VTL_CACHE=str(cache))

    extract(2)  # compiles for all: its batches are padded to the same shape
    for count in counts:
        runs = [extract(count) for _ in range(options.repetitions)]
        times, peaks = zip(*runs, strict=True)
        yield summary(count, "extraction", count, list(times), max(peaks))


def measure_decode(options: argparse.Namespace, scratch: Path) -> Iterator[tables.Row]:
    """Decoding into the cache, by the number of photos."""
    counts = numbers(options.drawn)
    check_free(scratch, max(counts) * 3 * DRAWN_SIDE**2)
    drawn = devkits.draw_photos(scratch / "drawn", NUM_DRAWN)
    for count in counts:
        photos, cache = scratch / f"photos_{count}", scratch / "cache"
        devkits.link([drawn[index % NUM_DRAWN] for index in range(count)], photos)
        times, peaks = [], []
        for _ in range(options.repetitions):
            shutil.rmtree(cache, ignore_errors=True)
            inside, peak = in_part("decode", scratch, photos, DRAWN_SIDE, cache)
            times += inside
            peaks.append(peak)
        yield summary(count, f"decoding to {DRAWN_SIDE} pixels", count, times, max(peaks))


def measure_labels(options: argparse.Namespace, scratch: Path) -> Iterator[tables.Row]:
    """Reading a table of labels, by the number of photos."""
    rng = np.random.default_rng(0)
    for count in numbers(options.drawn):
        photos, table = scratch / f"photos_{count}", scratch / f"{count}.csv"
        columns = ",".join(f"class {column:02d}" for column in range(NUM_LABELS))
        with table.open("w") as file:
            file.write(f"photo,{columns}\n")
            for number, flags in enumerate(rng.integers(0, 2, (count, NUM_LABELS))):
                name = f"{number // 1000:03d}/{number:06d}.jpg"
                (photos / name).parent.mkdir(parents=True, exist_ok=True)
                (photos / name).touch()
                file.write(f"{name},{','.join(map(str, flags))}\n")
        times, peak = in_part("labels", scratch, photos, table, options.repetitions)
        yield summary(count, f"reading {NUM_LABELS} labels each", count, times, peak)


def measure_pixels(options: argparse.Namespace, scratch: Path) -> Iterator[tables.Row]:
    """Decoding on one core, by the size of a photo in megapixels."""
    for megapixels in MEGAPIXELS:
        height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
        texture = drawing.texture(np.random.default_rng(0), height * 4 // 3, height, strength=1.0)
        photo = scratch / f"{megapixels}.jpg"
        Image.fromarray(texture.round().astype(np.uint8)).save(photo, quality=90)
        for decode in DECODE:
            times, peak = in_part("pixels", scratch, photo, decode, NUM_DECODED)
            yield summary(megapixels, f"decoding, {decode}", NUM_DECODED, times, peak)


def measure_classes(options: argparse.Namespace, scratch: Path) -> Iterator[tables.Row]:
    """Scoring, by the number of classes."""
    yield from measure_scoring(options, scratch, SCORED)


def measure_thresholds(options: argparse.Namespace, scratch: Path) -> Iterator[tables.Row]:
    """Calibration and thresholds, by the number of classes."""
    yield from measure_scoring(options, scratch, THRESHOLDS)


def measure_scoring(
    options: argparse.Namespace, scratch: Path, names: tuple[str, ...]
) -> Iterator[tables.Row]:
    """Some of what is measured of scoring, by the number of classes."""
    for count in numbers(options.classes):
        for what in names:
            times, peak = in_part("scoring", scratch, what, NUM_SCORED, count)
            yield summary(count, what, NUM_SCORED, times, peak)


def measure_report(options: argparse.Namespace, scratch: Path) -> Iterator[tables.Row]:
    """`vtl report` of one run, a whole command, by the number of classes."""
    for count in numbers(options.classes):
        run, page = scratch / f"run_{count}", scratch / "page.html"
        in_part("drawn_run", scratch, run, NUM_SCORED, count)
        times, peak = whole(["vtl.report", str(run), "-o", str(page)])
        yield summary(count, "report", NUM_SCORED, [times], peak)


def measure_steps_by_size(options: argparse.Namespace, scratch: Path) -> Iterator[tables.Row]:
    """Steps by the side of a photo, the batch size and the type."""
    for name, side, batch_size in STEPS:
        for dtype in ("float32", "bfloat16"):
            value = f"{side} pixels, batches of {batch_size}, {dtype}"
            yield measure_step(value, name, options, scratch, side, batch_size, dtype)


def measure_devices(options: argparse.Namespace, scratch: Path) -> Iterator[tables.Row]:
    """Steps by the number of virtual devices."""
    for devices in (1, 2, 4, 8):
        for name in (EVALUATION, TRAINING):
            yield measure_step(devices, name, options, scratch, 224, 16, "float32", devices)


PARTS: dict[str, Measure] = {
    "photos": measure_photos,
    "decode": measure_decode,
    "labels": measure_labels,
    "pixels": measure_pixels,
    "classes": measure_classes,
    "thresholds": measure_thresholds,
    "report": measure_report,
    "steps": measure_steps_by_size,
    "devices": measure_devices,
}


def measure_step(
    value: object,
    name: str,
    options: argparse.Namespace,
    scratch: Path,
    side: int,
    batch_size: int,
    dtype: str,
    devices: int = 1,
) -> tables.Row:
    """The row of one step, for one `value` of what varies."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    arguments = (name, batch_size, side, dtype, options.repetitions)
    times, peak = in_part("steps", scratch, *arguments, XLA_FLAGS=flags)
    return summary(value, name, batch_size, times, peak)


def in_part(
    module: str, scratch: Path, *arguments: object, **environment: str
) -> tuple[Times, float]:
    """What a module of experiments/speed/parts measured of itself, and its peak in MiB."""
    target = scratch / "seconds.json"
    command = [sys.executable, "-m", f"experiments.speed.parts.{module}", *map(str, arguments)]
    _, peak = watch([*command, str(target)], on_cpu() | environment)
    return [(wall, cpu) for wall, cpu in json.loads(target.read_text())], peak


def whole(module: list[str], **environment: str) -> tuple[tuple[float, float], float]:
    """Wall and CPU seconds of a whole command, and its peak in MiB."""
    before = os.times()
    wall, peak = watch([sys.executable, "-m", *module], on_cpu() | environment)
    after = os.times()
    spans = zip(after[2:4], before[2:4], strict=True)
    return (wall, sum(end - begin for end, begin in spans)), peak


def numbers(text: str) -> list[int]:
    """Of an option: 20,100 is two."""
    return [int(number) for number in text.split(",")]


def on_cpu() -> dict[str, str]:
    """The environment of every measurement."""
    return os.environ | {"JAX_PLATFORMS": "cpu"}


def check_free(directory: Path, num_bytes: int) -> None:
    """End the program if the disk has no room for `num_bytes`."""
    free = shutil.disk_usage(directory).free
    if free < num_bytes:
        raise SystemExit(
            f"{directory} needs {num_bytes:,} bytes and has {free:,} free: measure fewer photos, "
            "or set TMPDIR to a larger disk"
        )


def summary(value: object, quantity: str, images: int, times: Times, peak: float) -> tables.Row:
    """One row: medians of seconds, images a second of the wall and their range, and MiB."""
    wall, cpu = np.median(times, axis=0)
    rates = [images / seconds for seconds, _ in times]
    return {
        "value": value,
        "quantity": quantity,
        "images": images,
        "seconds": float(f"{wall:.3g}"),
        "cpu_seconds": float(f"{cpu:.3g}"),
        "images_per_second": round(float(np.median(rates)), 2),
        "range": f"{min(rates):.2f} to {max(rates):.2f}",
        "peak_anonymous_mib": round(peak),
    }


if __name__ == "__main__":
    main()
