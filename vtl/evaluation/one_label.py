"""Scores of photos with one label each: accuracy, balanced accuracy, and who is taken for whom."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vtl.evaluation.metrics import draw_counts, interval_of, mean_over_classes
from vtl.untrusted import printable

QUANTITIES = ("accuracy", "accuracy_interval", "balanced_accuracy", "balanced_accuracy_interval")
"""The keys of what `evaluate` returns, besides `confusion` and the loss."""

MOST_SHOWN = 12
"""Classes of a confusion matrix that is printed."""


def normalised(logits: np.ndarray) -> np.ndarray:
    """The logarithms of softmax(logits) [N, C]: they rank photos as the probabilities do."""
    return np.asarray(jax.nn.log_softmax(logits))


def evaluate(
    logits: np.ndarray, labels: np.ndarray, *, num_resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Accuracy of the class of the highest logit, with 95 % intervals of a bootstrap over images.

    logits [N, C]; each row of labels [N, C] has a single 1. Balanced accuracy is the mean over
    classes of the share of their images that is right; a class without images is left out. The
    confusion matrix [C, C] counts images by their label, then by what they are taken for. The loss
    is the mean cross-entropy in nats.
    """
    truth, predicted = labels.argmax(axis=1), logits.argmax(axis=1)
    is_right = (truth == predicted).astype(np.int64)
    num_images, num_classes = labels.shape
    of_class = np.eye(num_classes, dtype=np.int64)[truth].T  # [C, N]

    def accuracies(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy and balanced accuracy [R] with each image counts [N, R] times."""
        right, every = (of_class * is_right) @ counts, of_class @ counts
        shares = np.where(every > 0, right / np.maximum(every, 1), np.nan)
        return right.sum(axis=0) / num_images, mean_over_classes(shares)

    (accuracy,), (balanced,) = accuracies(np.ones((num_images, 1), np.int64))
    resampled = accuracies(draw_counts(np.random.default_rng(seed), num_images, num_resamples))
    confusion = np.zeros((num_classes, num_classes), int)
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
