"""How far classes' shares in drawn splits stray from the fractions asked for.

    python -m experiments.drawn_splits --root=DEVKIT

The 1,200 photos with animals, drawn into train, val and test as vtl draws photos whose data has no
splits: by the hash of their names, 0.7, 0.1 and 0.2. Of each class with photos in it the table has
the number of photos, the share that falls into each split, and how far these are from the fractions
in standard deviations of a random draw. Takes seconds. Writes experiments/drawn_splits.csv.
"""

import argparse
from pathlib import Path

import numpy as np

from experiments import partitions, tables
from vtl.data import draw
from vtl.data.photo_files import stem

FRACTIONS = (0.7, 0.1, 0.2)


def main() -> None:
    """Draw the splits, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    options = parser.parse_args()
    splits = partitions.sample_photos(options.root).values()
    labels = np.concatenate([np.asarray(split.labels) for split in splits])
    ids = [photo_id for split in splits for photo_id in split.ids]
    drawn = np.array(draw.drawn([stem(photo_id) for photo_id in ids], FRACTIONS))
    classes = [*next(iter(splits)).classes, "all photos"]
    columns = np.concatenate([labels, np.ones((len(labels), 1), labels.dtype)], axis=1)
    rows = []
    for name, column in zip(classes, columns.T, strict=True):
        of_class = drawn[column == 1]
        if not len(of_class):
            continue
        row = {"class": name, "photos": len(of_class)}
        for role, fraction in zip(draw.NAMES, FRACTIONS, strict=True):
            share = float(np.mean(of_class == role))
            deviation = np.sqrt(fraction * (1 - fraction) / len(of_class))
            row |= {role: round(share, 3)}
            row |= {f"{role}_deviations": round(float((share - fraction) / deviation), 2)}
        rows.append(row)
        tables.show(row)
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


if __name__ == "__main__":
    main()
