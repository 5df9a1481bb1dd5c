import itertools

import numpy as np
import pytest

from vtl.data.duplicates import joined
from vtl.learning_curve.subsets import nested

SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)


def photos(count=400, num_classes=5, seed=0):
    """ids, groups and positives; the last class is rare."""
    rng = np.random.default_rng(seed)
    groups = np.unique(rng.integers(0, count // 2, count), return_inverse=True)[1]
    positives = rng.random((count, num_classes)) < 0.3
    positives[:, -1] = np.arange(count) < 3
    return [f"{row:04}.jpg" for row in range(count)], groups, positives.astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_subsets_are_nested_whole_in_groups_and_of_the_sizes_asked_for(seed):
    ids, groups, positives = photos()
    subsets = nested(ids, groups, positives, SHARES, seed)
    for smaller, larger in itertools.pairwise(subsets):
        assert set(smaller) < set(larger)
    for share, rows in zip(SHARES, subsets, strict=True):
        assert len(rows) == round(share * len(ids))
        inside = np.isin(groups, groups[rows])
        assert np.array_equal(np.flatnonzero(inside), rows)
        assert positives[rows].any(axis=0).all()


def test_draws_differ_and_one_draw_does_not():
    given = photos()
    one, same, other = (nested(*given, SHARES, seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert len(np.intersect1d(one, other)) < len(one) / 2


def test_a_class_has_its_positive_only_where_there_is_room():
    ids, groups, positives = photos()
    groups[:3] = groups.max() + 1
    groups[10:60] = groups[0]  # its three photos are in a group of 53
    groups = np.unique(groups, return_inverse=True)[1]
    small, *_, half, whole = nested(ids, groups, positives, SHARES, 0)
    assert not positives[small, -1].any()
    assert positives[half, -1].sum() == 3
    assert len(whole) == len(ids)


def test_a_first_group_is_taken_even_if_it_is_too_large():
    groups = np.repeat(np.arange(4), (9, 5, 7, 8))
    ids = [f"{row}" for row in range(len(groups))]
    first, _ = nested(ids, groups, np.ones((len(groups), 1)), (0.1, 1.0), 0)
    assert list(first) == list(range(9, 14))


def test_groupings_are_joined():
    near, table = np.array([0, 0, 1, 2, 3]), ("a", "b", "b", "", "")
    assert joined(near, table).tolist() == [0, 0, 0, 1, 2]
