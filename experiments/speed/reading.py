"""Seconds and memory to read the labels of a million photos, in each layout that holds so many.

    python -m experiments.speed.reading

The photos are empty files, 1,000 in each of 1,000 folders: nothing decodes them. Each reading is a
process of its own, which ends when `splits.read` has returned the splits: the table is parsed,
every photo is found on the disk, and splits are drawn. Memory is the process's peak, without what
Python and its imports take before. Writes experiments/speed/reading.csv.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments import tables
from experiments.speed.processes import machine

FOLDERS, PHOTOS_EACH, COLUMNS = 1000, 1000, 20
LAYOUTS = {
    "a folder a class": (FOLDERS, ""),
    "a table, a column of labels, one each": (FOLDERS, "one.csv"),
    "a table, a column of labels, some two": (FOLDERS, "two.csv"),
    "a table, a column a class": (COLUMNS, "columns.csv"),
}
"""Name -> its number of classes and its table."""


def main() -> None:
    """Write the files, read them in each layout, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--read", nargs=2, help="the root and a table, or an empty word")
    options = parser.parse_args()
    if options.read:
        read(*options.read)
        return
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory))
        for name, (num_classes, table) in LAYOUTS.items():
            labels = str(Path(directory) / table) if table else ""
            command = [sys.executable, "-m", "experiments.speed.reading", "--read"]
            done = subprocess.run(
                [*command, str(Path(directory) / "photos"), labels],
                check=True,
                capture_output=True,
                text=True,
            )
            num_photos, seconds, mebibytes = done.stdout.split()
            rows.append(
                {
                    "layout": name,
                    "photos": int(num_photos),
                    "classes": num_classes,
                    "seconds": seconds,
                    "mib": mebibytes,
                    **machine("numpy"),
                }
            )
            tables.show(rows[-1])
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


def write(directory: Path) -> None:
    """The photos, and the tables of `LAYOUTS`."""
    rng = np.random.default_rng(0)
    with (
        (directory / "one.csv").open("w") as one,
        (directory / "two.csv").open("w") as two,
        (directory / "columns.csv").open("w") as columns,
    ):
        one.write("photo,label\n")
        two.write("photo,labels\n")
        columns.write("photo," + ",".join(f"class {c}" for c in range(COLUMNS)) + "\n")
        for folder in range(FOLDERS):
            place = directory / "photos" / f"class {folder:04d}"
            place.mkdir(parents=True)
            others = rng.integers(0, FOLDERS, PHOTOS_EACH)
            flags = rng.integers(0, 2, (PHOTOS_EACH, COLUMNS))
            for number in range(PHOTOS_EACH):
                name = f"{place.name}/photo {folder:04d} {number:06d}.jpg"
                (directory / "photos" / name).touch()
                one.write(f"{name},{place.name}\n")
                more = f"; class {others[number]:04d}" if number % 2 else ""
                two.write(f"{name},{place.name}{more}\n")
                columns.write(f"{name},{','.join(map(str, flags[number]))}\n")


def read(root: str, labels: str) -> None:
    """Read once, and print the number of photos, the seconds, and the MiB."""
    from vtl.data import splits

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    by_role = splits.read(root, labels=labels or None)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(sum(map(len, by_role.values())), f"{seconds:.1f}", round(peak / 1024))


if __name__ == "__main__":
    main()
