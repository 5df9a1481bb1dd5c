"""Write the run directory of a probe that scored drawn logits, for the report to read.

    python -m experiments.speed.parts.drawn_run RUN NUM_PHOTOS NUM_CLASSES OUT.json

Nothing is trained. Intervals come from few resamples: the report only shows them. Writes the wall
and CPU seconds to OUT.json.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from experiments.speed.parts import scoring
from experiments.speed.processes import seconds_of
from vtl import run_directory
from vtl.evaluation import metrics
from vtl.evaluation.outcome import scores_of, split_last

NUM_RESAMPLES = 20


def write(run: Path, num_photos: int, num_classes: int) -> None:
    """The files of a finished probe of `num_photos` test photos."""
    logits, labels, difficult = scoring.draw(num_photos, num_classes)
    scores, classes = scores_of(logits), scoring.names(logits)
    outcome = metrics.evaluate_scores(
        scores, labels, difficult, classes, ranked_by=logits, num_resamples=NUM_RESAMPLES
    )
    run.mkdir()
    np.savez(
        run / "scores_test.npz",
        scores=scores,
        logits=logits,
        labels=labels,
        difficult=difficult,
        classes=classes,
        ids=[f"photo {row:06d}" for row in range(num_photos)],
    )
    results = {
        "task": "probe",
        "variant": "",
        "status": "finished",
        "classes": classes,
        **split_last({"test": outcome}),
        "trainable_parameters": 2049 * num_classes,
        "seconds": {"train": 60.0},
        "seed": 0,
        "weights": None,
        "data": {"name": "drawn", "splits": {"test": "test"}},
        "commit": run_directory.commit(),
        "versions": {"jax": jax.__version__},
        "devices": ["cpu"],
    }
    (run / "results.json").write_text(json.dumps(results))
    (run / "config.json").write_text(json.dumps({"task": "probe", "seed": 0, "num_epochs": 20.0}))


def main() -> None:
    """Write the run, and how long it took."""
    run, num_photos, num_classes, target = sys.argv[1:]
    times = seconds_of(lambda: write(Path(run), int(num_photos), int(num_classes)))
    Path(target).write_text(json.dumps([times]))


if __name__ == "__main__":
    main()
