"""Resamples of whole images."""

import numpy as np
import pytest

from vtl.evaluation import resampling


def test_columns_are_the_arrays_own_however_many_are_copied_at_once(monkeypatch):
    monkeypatch.setattr(resampling, "MAX_COUNTS_PER_CHUNK", 50)
    first = np.arange(140).reshape(20, 7)
    pairs = list(resampling.columns(first, -first))
    assert len(pairs) == 7
    np.testing.assert_array_equal([one for one, _ in pairs], first.T)
    np.testing.assert_array_equal([other for _, other in pairs], -first.T)


def test_draws_whole_resamples():
    counts = resampling.draw_counts(np.random.default_rng(0), 50, 400)
    assert counts.shape == (50, 400)
    assert (counts.sum(axis=0) == 50).all()
    # One image's count is binomial with mean 1 and variance 1 - 1/50.
    np.testing.assert_allclose(counts.mean(axis=1), 1, atol=0.25)
    assert counts.var() == pytest.approx(0.98, abs=0.05)
