"""How cost grows: images a second and peak anonymous memory, on the CPU.

    python -m experiments.speed.scaling --root=DEVKIT --weights=FILE

`--parts=photos,decode` measures only these parts, and leaves the rows of the others as they are.

photos: extraction as a whole command, over the number of photos, which repeat those of DEVKIT. The
cache holds XLA's programs and no photo.

decode: decoding alone, over the number of drawn JPEGs of 500 x 375 pixels. They are stored at 64
pixels and not at 256, where 100,000 would take 19.7 GB.

resolution, batch, devices: evaluation, and training with frozen BatchNorm, over the side in pixels,
the batch size and the number of devices. What does not vary is 224 pixels, batches of 16 and one
device. The devices are virtual: they share the cores and the batch of 16, and so show what
splitting a batch costs, not how much faster more devices are.

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

from experiments import tables
from experiments.speed import devkits
from experiments.speed.processes import machine, watch

TABLE = Path(__file__).with_suffix(".csv")
STORED_SIDE, DRAWN_SIDE = 256, 64
"""Side in pixels of a cached photo: in extraction, and in the decoding of drawn photos."""

NUM_DRAWN = 200
FEATURES_BYTES = 4 * 2048
STEPS = ("evaluation", "training, everything, BatchNorm frozen")

Measure = Callable[[argparse.Namespace, Path], Iterator[tables.Row]]


def main() -> None:
    """Measure the chosen parts, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--photos", default="1000,10000", help="N of the part photos")
    parser.add_argument("--drawn", default="10000,100000", help="N of the part decode")
    parser.add_argument("--batch-size", type=int, default=16)
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
                tables.show(rows[-1])
        tables.write_csv(TABLE, replace_part(tables.read_csv(TABLE), part, rows))


def replace_part(rows: list[tables.Row], part: str, measured: list[tables.Row]) -> list[tables.Row]:
    """The rows, with those of one part replaced, in the order of `PARTS`."""
    kept = [row for row in rows if row["part"] != part]
    return sorted(kept + measured, key=lambda row: list(PARTS).index(row["part"]))


def measure_photos(options: argparse.Namespace, scratch: Path) -> Iterator[tables.Row]:
    """Extraction, whole commands, by the number of photos."""
    counts = [int(count) for count in options.photos.split(",")]
    check_free(scratch, max(counts) * (3 * STORED_SIDE**2 + 2 * FEATURES_BYTES))
    environment = on_cpu() | {"VTL_CACHE": str(scratch / "cache")}

    def extract(num_photos: int) -> tuple[float, float]:
        devkit = scratch / f"devkit_{num_photos}"
        if not devkit.exists():
            splits = {"trainval": num_photos // 2, "test": num_photos - num_photos // 2}
            devkits.repeat_photos(options.root, devkit, splits)
        for earlier in (scratch / "run", scratch / "cache" / "images"):
            shutil.rmtree(earlier, ignore_errors=True)
        command = [sys.executable, "-m", "vtl.main", "--config=configs/deep_features.py"]
        command += [f"--config.data.root={devkit}", f"--config.weights={options.weights}"]
        return watch([*command, f"--workdir={scratch / 'run'}"], environment)

    extract(2)  # compiles for all: its batches are padded to the same shape
    for count in counts:
        runs = [extract(count) for _ in range(options.repetitions)]
        rates = [count / seconds for seconds, _ in runs]
        yield summary(count, "extraction", rates, max(peak for _, peak in runs))


def measure_decode(options: argparse.Namespace, scratch: Path) -> Iterator[tables.Row]:
    """Decoding into the cache, by the number of photos."""
    counts = [int(count) for count in options.drawn.split(",")]
    check_free(scratch, max(counts) * 3 * DRAWN_SIDE**2)
    drawn = devkits.draw_photos(scratch / "drawn", NUM_DRAWN)
    target = scratch / "seconds.json"
    for count in counts:
        photos, cache = scratch / f"photos_{count}", scratch / "cache"
        devkits.link([drawn[index % NUM_DRAWN] for index in range(count)], photos)
        rates, peaks = [], []
        for _ in range(options.repetitions):
            shutil.rmtree(cache, ignore_errors=True)
            command = ["-m", "experiments.speed.parts.decode", str(photos), str(DRAWN_SIDE)]
            command += [str(cache), str(target)]
            peaks.append(watch([sys.executable, *command], on_cpu())[1])
            rates += [count / seconds for seconds in json.loads(target.read_text())]
        yield summary(count, f"decoding to {DRAWN_SIDE} pixels", rates, max(peaks))


def measure_resolution(options: argparse.Namespace, scratch: Path) -> Iterator[tables.Row]:
    """Steps by the side of a photo, in pixels."""
    for side in (224, 448):
        yield from measure_steps(side, options, scratch, side=side, batch_size=options.batch_size)


def measure_batch(options: argparse.Namespace, scratch: Path) -> Iterator[tables.Row]:
    """Steps by the batch size."""
    for batch_size in (4, 8, 16, 32):
        yield from measure_steps(batch_size, options, scratch, batch_size=batch_size)


def measure_devices(options: argparse.Namespace, scratch: Path) -> Iterator[tables.Row]:
    """Steps by the number of virtual devices."""
    for devices in (1, 2, 4, 8):
        yield from measure_steps(
            devices, options, scratch, batch_size=options.batch_size, devices=devices
        )


PARTS: dict[str, Measure] = {
    "photos": measure_photos,
    "decode": measure_decode,
    "resolution": measure_resolution,
    "batch": measure_batch,
    "devices": measure_devices,
}


def measure_steps(
    value: int,
    options: argparse.Namespace,
    scratch: Path,
    *,
    batch_size: int,
    side: int = 224,
    devices: int = 1,
) -> Iterator[tables.Row]:
    """The rows of `STEPS` for one `value` of what varies."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    target = scratch / "seconds.json"
    for step in STEPS:
        numbers = [str(number) for number in (batch_size, side, options.repetitions)]
        command = ["-m", "experiments.speed.parts.steps", step, *numbers, str(target)]
        _, peak = watch([sys.executable, *command], on_cpu() | {"XLA_FLAGS": flags})
        rates = [batch_size / seconds for seconds in json.loads(target.read_text())]
        yield summary(value, step, rates, peak)


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


def summary(value: int, quantity: str, rates: list[float], peak: float) -> tables.Row:
    """One row: the median and the range of images a second, and MiB."""
    return {
        "value": value,
        "quantity": quantity,
        "images_per_second": round(float(np.median(rates)), 2),
        "range": f"{min(rates):.2f} to {max(rates):.2f}",
        "peak_anonymous_mib": round(peak),
    }


if __name__ == "__main__":
    main()
