"""Runs of deep features as small as show the same: no network, features by hand."""

import json
from pathlib import Path

import numpy as np

from tests.data.layouts.photos import write_photo
from vtl.data import deep_features, splits

CLASSES = ("cat", "=cmd<script>alert(1)</script>", "bird")
HOSTILE = '<img src=x onerror=alert(1)>,"q".png'
FLIPPED = {(3, 0), (20, 1), (40, 2)}
"""Labels that are wrong in the table: row and column."""


def write_run(root: Path, num_photos: int = 60, size: int = 24, unknown: bool = True) -> Path:
    """A run of features of photos in root/photos, which root/photos/labels.csv labels."""
    rng = np.random.default_rng(0)
    truth = np.tile(np.eye(3, dtype=int), (num_photos // 3 + 1, 1))[:num_photos]
    written = truth.copy()
    for row, column in FLIPPED:
        written[row, column] ^= 1
    lines = ['photo,split,cat,"=cmd<script>alert(1)</script>",bird']
    for row in range(num_photos):
        name = HOSTILE if row == 20 else f"{row:04}.png"
        write_photo(root / "photos" / name, row, size)
        cells = [
            "?" if unknown and row % 10 == 7 and column == 2 else str(written[row, column])
            for column in range(3)
        ]
        quoted = '"' + name.replace('"', '""') + '"'
        lines.append(f"{quoted},{'test' if row % 4 == 0 else 'train'},{','.join(cells)}")
    (root / "photos" / "labels.csv").write_text("\n".join(lines) + "\n")
    by_role = splits.read(root / "photos", labels="labels.csv")
    place = {(HOSTILE if row == 20 else f"{row:04}.png"): row for row in range(num_photos)}
    noise = rng.normal(0, 0.4, (num_photos, 12))
    all_features = np.abs(np.hstack([3 * truth, noise])).astype(np.float32)
    features = {
        role: all_features[[place[photo] for photo in split.ids]] for role, split in by_role.items()
    }
    run = root / "run"
    run.mkdir()
    deep_features.write(run / "DF_tiny.npz", features, by_role, {})
    data = {"name": "voc2007", "root": str(root / "photos"), "labels": "labels.csv"}
    data |= {"train_split": "trainval", "test_split": "test"}
    (run / "config.json").write_text(json.dumps({"task": "features", "data": data}))
    (run / "results.json").write_text(json.dumps({"features": "DF_tiny.npz"}))
    return run
