"""Scores of photos with one label each: accuracy, balanced accuracy, and who is taken for whom."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vtl.evaluation.resampling import (
    draw_resamples,
    interval_of,
    mean_over_classes,
    once,
    sums_by_class,
)
from vtl.untrusted import printable

MOST_SHOWN, MOST_WRITTEN = 12, 200
"""Classes of a confusion matrix that is printed, and of one that is made at all."""


def normalised(logits: np.ndarray) -> np.ndarray:
    """The logarithms of softmax(logits) [N, C]: they rank photos as the probabilities do.

    In NumPy, so that a photo's row has the same bits however many photos come with it.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def evaluate(
    logits: np.ndarray, labels: np.ndarray, *, num_resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Accuracy of the class of the highest logit, with 95 % intervals of a bootstrap over images.

    logits [N, C]; each row of labels [N, C] has a single 1. Balanced accuracy is the mean over
    classes of the share of their images that is right; a class without images is left out. The
    confusion matrix [C, C] counts images by their label, then by what they are taken for; of over
    MOST_WRITTEN classes it is empty. The loss is the mean cross-entropy in nats.
    """
    truth, predicted = labels.argmax(axis=1), logits.argmax(axis=1)
    num_images, num_classes = labels.shape
    is_of = np.unique(truth) == truth[:, None]
    every_of = sums_by_class(is_of)
    right_of = sums_by_class(is_of & (truth == predicted)[:, None])

    def accuracies(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy and balanced accuracy [R] with each image counts [N, R] times."""
        every, right = every_of(counts), right_of(counts)
        shares = np.where(every > 0, right / np.maximum(every, 1), np.nan)
        return right.sum(axis=0) / num_images, mean_over_classes(shares)

    (accuracy,), (balanced,) = accuracies(once(num_images))
    pieces = [accuracies(counts) for counts in draw_resamples(num_images, num_resamples, seed)]
    resampled = [np.concatenate(samples) for samples in zip(*pieces, strict=True)]
    confusion = np.zeros((num_classes, num_classes) if num_classes <= MOST_WRITTEN else (0, 0), int)
    if confusion.size:
        np.add.at(confusion, (truth, predicted), 1)
    return {
        "accuracy": float(accuracy),
        "accuracy_interval": interval_of(resampled[0]),
        "balanced_accuracy": float(balanced),
        "balanced_accuracy_interval": interval_of(resampled[1]),
        "confusion": confusion.tolist(),
        "loss": float(-normalised(logits)[np.arange(num_images), truth].mean()),
    }


def format_lines(result: dict[str, Any], role: str, classes: Sequence[str]) -> list[str]:
    """Accuracy and, of not too many classes, the confusion matrix, aligned."""
    words = {"accuracy": "accuracy", "balanced_accuracy": "balanced over the classes"}
    shown = [
        f"{word} {100 * result[name]:.1f} "
        f"[{100 * result[f'{name}_interval'][0]:.1f}, {100 * result[f'{name}_interval'][1]:.1f}]"
        for name, word in words.items()
    ]
    lines = [f"one label each, on {role}: {', '.join(shown)}"]
    if len(classes) > MOST_SHOWN:
        return lines
    names = [printable(name, 12) for name in classes]
    width = max(5, *map(len, names))
    lines.append(f"{'is, taken for':<{width}}  " + "  ".join(f"{name:>{width}}" for name in names))
    for name, row in zip(names, result["confusion"], strict=True):
        cells = "  ".join(f"{count:>{width}}" for count in row)
        lines.append(f"{name:<{max(width, 13)}}  {cells}")
    return lines
