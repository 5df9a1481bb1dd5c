"""Score drawn logits as a run scores a split: wall and CPU seconds, as JSON in a file.

    python -m experiments.speed.parts.scoring WHAT NUM_PHOTOS NUM_CLASSES OUT.json

WHAT is a name in MEASURED. experiments/speed/scaling.py runs this as a process of its own, so that
its peak of memory is that of the logits, 4 bytes each, and of this computation.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.speed.processes import seconds_of
from vtl.decisions import answers as answers_of
from vtl.evaluation import answers, calibration, metrics, thresholds
from vtl.evaluation.outcome import scores_of
from vtl.evaluation.thresholds import Unseen

LABELS_EACH, SHARE_DIFFICULT, GAP = 1.5, 0.02, 2.5
"""Labels of a photo, and flags of a label, in the mean; how far positives lie above the rest."""


def draw(num_photos: int, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits float32, labels and difficult flags uint8, all [num_photos, num_classes]."""
    rng, shape = np.random.default_rng(0), (num_photos, num_classes)
    logits = rng.standard_normal(shape, np.float32)
    labels = np.empty(shape, np.uint8)
    difficult = np.empty(shape, np.uint8)
    share = LABELS_EACH / num_classes
    for row in range(num_photos):
        labels[row] = rng.random(num_classes, np.float32) < share
        difficult[row] = rng.random(num_classes, np.float32) < share * SHARE_DIFFICULT
        logits[row] += GAP * labels[row] - GAP
    return logits, labels, difficult & (1 - labels)


def average_precisions(logits: np.ndarray, labels: np.ndarray, difficult: np.ndarray) -> None:
    """Each class's AP, the mAP, and the intervals of both, under the three protocols."""
    scores, classes = scores_of(logits), names(logits)
    metrics.evaluate_scores(scores, labels, difficult, classes, ranked_by=logits)


def answers_at_a_half(logits: np.ndarray, labels: np.ndarray, difficult: np.ndarray) -> None:
    """Precision, recall and F1 with intervals, above those of other answers."""
    given = answers_of(scores_of(logits), None, one_label_each=False)
    answers.evaluate(given, labels, 1 - difficult, names(logits), baseline=given)


def calibrated(logits: np.ndarray, labels: np.ndarray, difficult: np.ndarray) -> None:
    """Calibration alone."""
    calibration.platt(logits, labels, 1 - difficult)


def thresholds_by_f1(logits: np.ndarray, labels: np.ndarray, difficult: np.ndarray) -> None:
    """Calibration, and each class's threshold with its interval."""
    unseen = Unseen(logits, labels, 1 - difficult, "drawn")
    thresholds.decide(unseen, names(logits), "f1", one_label_each=False, seed=0)


def names(logits: np.ndarray) -> list[str]:
    """A name for each class."""
    return [f"class {column:04d}" for column in range(logits.shape[1])]


MEASURED: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], None]] = {
    "AP, mAP, intervals": average_precisions,
    "answers, intervals": answers_at_a_half,
    "calibration": calibrated,
    "calibration, thresholds, intervals": thresholds_by_f1,
}


def main() -> None:
    """Draw, score once, and write how long it took."""
    what, num_photos, num_classes, target = sys.argv[1:]
    drawn = draw(int(num_photos), int(num_classes))
    Path(target).write_text(json.dumps([seconds_of(lambda: MEASURED[what](*drawn))]))


if __name__ == "__main__":
    main()
