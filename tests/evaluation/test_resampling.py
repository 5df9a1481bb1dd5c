"""Resamples of whole images."""

import numpy as np
import pytest

from vtl.evaluation import resampling


def test_draws_whole_resamples():
    counts = resampling.draw_counts(np.random.default_rng(0), 50, 400)
    assert counts.shape == (50, 400)
    assert (counts.sum(axis=0) == 50).all()
    # One image's count is binomial with mean 1 and variance 1 - 1/50.
    np.testing.assert_allclose(counts.mean(axis=1), 1, atol=0.25)
    assert counts.var() == pytest.approx(0.98, abs=0.05)
