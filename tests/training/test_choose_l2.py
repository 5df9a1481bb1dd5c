import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from vtl.training import choose_l2


def problem(noise, num_images=90, num_features=6, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num_images, num_features)).astype(np.float32)
    logits = 3 * features[:, :2] + noise * rng.normal(size=(num_images, 2))
    return features, (logits > 0).astype(np.uint8)


def choose(features, labels, l2s, num_folds=3):
    mask = np.ones_like(labels)
    return choose_l2.by_cross_validation(features, labels, mask, l2s, num_folds=num_folds, seed=0)


def held_out_loss(features, labels, l2, num_folds=3):
    """By scikit-learn, on the same folds."""
    folds = np.random.default_rng(0).permutation(len(labels)) % num_folds
    total = 0.0
    for fold in range(num_folds):
        inside, out = folds != fold, folds == fold
        reference = LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-8, max_iter=10_000)
        reference.fit(features[inside], labels[inside])
        scores = reference.predict_proba(features[out])[:, 1]
        total += log_loss(labels[out], scores, labels=[0, 1]) * out.sum()
    return total


def test_the_grid_moves_on_until_its_best_is_inside():
    features, labels = problem(noise=8.0, num_features=60)
    for column, chosen in enumerate(choose(features, labels, (1e-4, 1e-3))):
        assert chosen > 1e-3
        losses = {l2: held_out_loss(features, labels[:, column], l2) for l2 in (1e-3, 1e-2, 0.1, 1)}
        assert held_out_loss(features, labels[:, column], chosen) <= 1.01 * min(losses.values())


@pytest.mark.parametrize("noise", [0.0, 1.0, 8.0])
def test_each_class_gets_the_l2_of_least_loss_by_scikit_learn(noise):
    features, labels = problem(noise, num_features=30)
    labels[:, 1] &= features[:, 2] > 0.5  # rarer, so that it prefers another
    l2s = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    chosen = choose(features, labels, l2s)
    for column in range(2):
        losses = [held_out_loss(features, labels[:, column], l2) for l2 in l2s]
        assert chosen[column] == l2s[int(np.argmin(losses))]


def test_the_grid_moves_on_downwards_too():
    features, labels = problem(noise=0.0)
    assert (choose(features, labels, (1.0, 10.0)) < 1.0).all()


def test_it_moves_on_a_few_steps_at_most():
    features, labels = problem(noise=0.0)
    least = choose(features, labels, (1.0, 1.5))
    assert (least >= (1 / 1.5) ** choose_l2.MOST_STEPS_BEYOND * (1 - 1e-6)).all()


def test_one_value_is_taken_as_it_is(monkeypatch):
    monkeypatch.setattr(choose_l2, "fit_rotated", None)  # nothing is fitted for it
    features, labels = problem(noise=1.0)
    np.testing.assert_array_equal(choose(features, labels, (0.5,)), [0.5, 0.5])


def test_a_class_without_positives_does_not_move_the_grid():
    features, labels = problem(noise=1.0)
    labels[:] = 0
    assert set(choose(features, labels, (0.1, 1.0))) <= {0.1, 1.0}


def test_the_choice_in_words():
    assert choose_l2.describe(np.array([0.1, 1e-4, 0.1])) == "0.0001 (1), 0.1 (2) classes"


@pytest.mark.parametrize("num_images", [4, 5])
def test_few_photos(num_images):
    features, labels = problem(noise=1.0, num_images=num_images)
    assert np.isfinite(choose(features, labels, (0.1, 1.0), num_folds=5)).all()


@pytest.mark.full
def test_one_label_each_has_one_l2_by_the_softmax_losses():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 90)
    features = (rng.normal(size=(90, 5)) + rng.normal(size=(3, 5))[truth]).astype(np.float32)
    labels = np.eye(3, dtype=np.uint8)[truth]
    options = {"num_folds": 3, "seed": 0, "one_label_each": True}
    l2s = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    found = choose_l2.by_cross_validation(features, labels, np.ones_like(labels), l2s, **options)
    folds = choose_l2.held_out(90, 3, 0)
    by_hand = {}
    for l2 in l2s:
        losses = []
        for fold in folds.T:
            inside = ~fold
            theirs = LogisticRegression(C=1 / (inside.sum() * l2 * 3 / 2), max_iter=10_000)
            theirs.fit(features[inside], truth[inside])
            losses.append(log_loss(truth[fold], theirs.predict_proba(features[fold])))
        by_hand[l2] = np.mean(losses)
    assert found.shape == (3,)
    assert set(found.tolist()) == {min(by_hand, key=by_hand.get)}


def test_rows_of_a_group_are_held_out_together():
    groups = np.repeat(np.arange(12), [1, 5, 2, 1, 3, 1, 1, 2, 1, 1, 4, 1])
    folds = choose_l2.held_out(len(groups), 4, 0, groups)
    np.testing.assert_array_equal(folds.sum(axis=1), 1)
    for group in range(12):
        assert len(np.unique(folds[groups == group], axis=0)) == 1
    assert (folds.sum(axis=0) > 0).all()
