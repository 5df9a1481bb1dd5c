"""Scores of photos with one label each, held against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    recall_score,
)

from vtl.evaluation import one_label

CLASSES = ("cat", "dog", "emu", "cow")


def problem(seed, count=60):
    rng = np.random.default_rng(seed)
    truth = rng.choice(4, count, p=[0.6, 0.2, 0.15, 0.05])
    labels = np.eye(4, dtype=np.uint8)[truth]
    logits = rng.normal(0, 1, (count, 4)) + 1.5 * labels
    return one_label.normalised(logits.astype(np.float32)), labels, truth


@pytest.mark.parametrize("seed", range(3))
def test_is_scikit_learns(seed):
    logits, labels, truth = problem(seed)
    found = one_label.evaluate(logits, labels, num_resamples=10)
    predicted = logits.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    expected = confusion_matrix(truth, predicted, labels=range(4))
    np.testing.assert_array_equal(found["confusion"], expected)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = log_loss(truth, probabilities, labels=range(4))
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


def test_intervals_are_those_of_resampled_images():
    logits, labels, truth = problem(0, 200)
    found = one_label.evaluate(logits, labels, num_resamples=1000)
    rng, predicted = np.random.default_rng(7), logits.argmax(axis=1)
    drawn = [rng.integers(200, size=200) for _ in range(300)]
    by_hand = {
        "accuracy": [accuracy_score(truth[d], predicted[d]) for d in drawn],
        "balanced_accuracy": [balanced_accuracy_score(truth[d], predicted[d]) for d in drawn],
    }
    for name, values in by_hand.items():
        expected = np.percentile(values, [2.5, 97.5])
        np.testing.assert_allclose(found[f"{name}_interval"], expected, atol=0.02)


def test_a_class_without_images_is_left_out():
    logits, labels, truth = problem(1)
    kept = truth != 2
    found = one_label.evaluate(logits[kept], labels[kept], num_resamples=10)
    by_class = recall_score(
        truth[kept], logits[kept].argmax(axis=1), labels=[0, 1, 3], average="macro"
    )
    assert found["balanced_accuracy"] == pytest.approx(by_class)


def test_the_lines():
    logits, labels, _ = problem(0)
    first, *rows = one_label.format_lines(one_label.evaluate(logits, labels), "test", CLASSES)
    assert first.startswith("one label each, on test: accuracy ")
    assert ", balanced over the classes " in first
    assert [row.split()[0] for row in rows] == ["is,", *CLASSES]
    many = [str(n) for n in range(13)]
    labels = np.eye(13, dtype=np.uint8)
    logits = one_label.normalised(labels.astype(np.float32))
    assert len(one_label.format_lines(one_label.evaluate(logits, labels), "test", many)) == 1
