"""The small search behind the default recipe of configs/finetune.py: chosen on val, never on test.

    python -m experiments.finetune_search --root=DEVKIT --weights=FILE --out=runs/search

Trains on `train`, scores on `val`, and writes experiments/finetune_search.csv. Each run resumes
where it stopped, so a second start does only what is missing. A run takes 11 to 19 minutes on
2 CPU cores.
"""

import argparse
from pathlib import Path

from experiments import grid, tables

COLUMNS = ("data.image_size", "augment", "optim.learning_rate", "num_epochs")
CANDIDATES: list[tuple[int, str, float, float]] = [
    (224, "flip", 0.01, 3.0),
    (224, "flip", 0.03, 3.0),
    (224, "crop_flip", 0.03, 3.0),
    (224, "crop_flip", 0.1, 3.0),
    (352, "flip", 0.01, 2.0),
]


def main() -> None:
    """Run every candidate and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    options = parser.parse_args()
    common: grid.Overrides = {
        "data.root": options.root,
        "weights": options.weights,
        "data.train_split": "train",
        "data.val_split": "val",
        "data.test_split": "",
        "data.resize": "squash",
    }
    rows = []
    for values in CANDIDATES:
        candidate = dict(zip(COLUMNS, values, strict=True))
        run = options.out / "_".join(map(str, values))
        grid.run_finetune("", common | candidate, run)
        results = grid.outcome(run)
        rows.append(
            {
                **candidate,
                "val_map_lab_frequent": round(100 * grid.frequent_map(run, "val"), 1),
                "val_map_lab": round(100 * results["map"]["val"]["lab"], 1),
                "chosen_step": results["chosen_step"],
                "seconds": round(results["seconds"]["total"]),
                "commit": results["commit"],
            }
        )
        tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


if __name__ == "__main__":
    main()
