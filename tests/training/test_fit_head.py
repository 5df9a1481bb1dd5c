import numpy as np
import pytest

from vtl.models import head
from vtl.training import fit_head, fit_linear

NUM_CLASSES = 3


def problem(num_cells, num_images=80, num_features=8, seed=0):
    rng = np.random.default_rng(seed)
    photos = rng.normal(size=(num_images, num_features)).astype(np.float32)
    cells = rng.normal(size=(num_images, num_cells, num_features)).astype(np.float16)
    logits = photos @ rng.normal(size=(num_features, NUM_CLASSES)) - 0.5
    labels = (logits + rng.normal(size=logits.shape) > 0).astype(np.uint8)
    return photos, cells, labels, np.ones_like(labels)


def test_without_cells_it_is_the_logistic_regression():
    photos, cells, labels, mask = problem(0)
    fitted, l2 = fit_head.fit(photos, cells, labels, mask, l2=0.01, seed=0)
    expected = fit_linear.logistic_regression(photos, labels, mask, 0.01)
    np.testing.assert_array_equal(fitted.kernel, expected.kernel)
    np.testing.assert_array_equal(fitted.bias, expected.bias)
    np.testing.assert_array_equal(l2, 0.01)


def test_with_cells_each_class_is_as_likely_as_it_is_frequent():
    photos, cells, labels, mask = problem(4)
    mask[:20, 1] = 0
    labels[:, 2] = 0  # a class that no photo has keeps its log-odds
    fitted, _ = fit_head.fit(photos, cells, labels, mask, l2=0.01, seed=0)
    views = np.concatenate([photos[:, None], cells.astype(np.float32)], axis=1)
    logits = head.logits_of(views @ np.asarray(fitted.kernel)) + fitted.bias
    probabilities = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    for column in range(2):
        counted = mask[:, column] == 1
        np.testing.assert_allclose(
            probabilities[counted, column].mean(), labels[counted, column].mean(), atol=1e-5
        )
    np.testing.assert_allclose(fitted.bias[2], np.log(0.5 / 80.5), rtol=1e-5)
    alone = fit_linear.logistic_regression(photos, labels, mask, 0.01)
    np.testing.assert_array_equal(fitted.kernel, alone.kernel)


def test_no_l2_is_one_by_cross_validation():
    photos, cells, labels, mask = problem(0)
    fitted, l2 = fit_head.fit(photos, cells, labels, mask, l2=0.0, seed=0)
    assert (l2 > 0).all()
    expected = fit_linear.logistic_regression(photos, labels, mask, l2)
    np.testing.assert_array_equal(fitted.kernel, expected.kernel)


@pytest.mark.full
def test_with_one_label_each_the_classes_shares_are_met():
    rng = np.random.default_rng(0)
    truth = rng.choice(4, 200, p=[0.5, 0.3, 0.2, 0.0])
    photos = (rng.normal(size=(200, 6)) + rng.normal(size=(4, 6))[truth]).astype(np.float32)
    cells = (photos[:, None] + rng.normal(size=(200, 9, 6))).astype(np.float16)
    labels = np.eye(4, dtype=np.uint8)[truth]
    options = {"l2": 1e-2, "seed": 0, "one_label_each": True}
    fitted, _ = fit_head.fit(photos, cells, labels, np.ones_like(labels), **options)
    views = np.concatenate([photos[:, None], cells], axis=1).astype(np.float32)
    logits = np.asarray(head.logits_of(views @ np.asarray(fitted.kernel)))
    logits = logits + np.asarray(fitted.bias)
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    np.testing.assert_allclose(probabilities.mean(axis=0)[:3], labels.mean(axis=0)[:3], atol=5e-3)
    assert (logits.argmax(axis=1) == truth).mean() > 0.7


@pytest.mark.parametrize("num_cells", [0, 3])
@pytest.mark.parametrize("one_label_each", [False, True])
def test_out_of_fold_a_photo_is_scored_by_who_never_saw_it(num_cells, one_label_each):
    rng = np.random.default_rng(0)
    photos = rng.normal(size=(50, 6)).astype(np.float32)
    cells = rng.normal(size=(50, num_cells, 6)).astype(np.float16)
    labels = np.eye(3, dtype=np.uint8)[rng.integers(3, size=50)]

    def logits(labels):
        l2s = np.full(3, 0.01)
        mask = np.ones_like(labels)
        return fit_head.out_of_fold(
            *(photos, cells, labels, mask, l2s),
            groups=np.arange(len(labels)),
            seed=0,
            one_label_each=one_label_each,
        )

    before = logits(labels)
    changed = labels.copy()
    changed[7] = np.roll(changed[7], 1)
    after = logits(changed)
    of_its_fold = (before == after).all(axis=1)
    assert of_its_fold[7]
    assert of_its_fold.sum() == 10
