"""Position embeddings on another grid, as torch interpolates for each origin; rotary positions."""

import numpy as np
import pytest

from tests.references import recipe
from vtl.models import positions


@pytest.mark.parametrize("resampling", positions.RESAMPLINGS)
def test_every_new_point_is_a_mean_of_old_ones(resampling):
    for old, new in ((7, 14), (14, 7), (16, 37), (37, 16), (5, 5)):
        weights = positions.weights(old, new, resampling)
        assert weights.shape == (new, old)
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


def test_only_the_antialiased_kernel_keeps_a_line():
    """Keys' kernel does at a = -0.5, not at the -0.75 that torch has without antialiasing."""
    line, places = np.arange(8, dtype=np.float32), np.arange(16) / 2 - 0.25
    off = {r: positions.weights(8, 16, r) @ line - places for r in ("antialias", "plain")}
    np.testing.assert_allclose(off["antialias"][4:-4], 0, atol=1e-5)
    np.testing.assert_allclose(np.abs(off["plain"][4:-4]), 3 / 64, atol=1e-5)


def test_the_own_grid_is_left_alone():
    embeddings = recipe.Uniform(0)(-1, 1, (4, 4, 3))
    for resampling in positions.RESAMPLINGS:
        same = positions.resampled(embeddings, (4, 4), resampling)
        np.testing.assert_array_equal(same, embeddings)


@pytest.mark.parity
@pytest.mark.parametrize("resampling", positions.RESAMPLINGS)
@pytest.mark.parametrize(("old", "new"), [(7, 14), (14, 7), (14, 16), (16, 14), (37, 16), (16, 37)])
def test_torch_interpolates_alike(old, new, resampling):
    torch = pytest.importorskip("torch")
    embeddings = recipe.Uniform(0)(-1, 1, (old, old, 3))
    channels_first = torch.tensor(embeddings.transpose(2, 0, 1)[None])
    if resampling == "offset":  # dinov2/models/vision_transformer.py, interpolate_pos_encoding
        options = {"scale_factor": ((new + 0.1) / old,) * 2}
    else:
        options = {"size": (new, new), "antialias": resampling == "antialias"}
    theirs = torch.nn.functional.interpolate(channels_first, mode="bicubic", **options)
    ours = positions.resampled(embeddings, (new, new), resampling)
    np.testing.assert_allclose(ours, theirs[0].permute(1, 2, 0).numpy(), atol=1e-5)


def test_rotary_scores_depend_on_how_far_patches_are_apart():
    q, k = recipe.Uniform(0)(-1, 1, (2, 1, 1, 1, 64))
    turns = positions.turns((3, 5), 2, 64, "float32")
    queries, keys = (positions.turned(np.repeat(t, 17, axis=2), turns)[0, 0] for t in (q, k))
    scores = np.asarray(queries @ keys.T)
    np.testing.assert_allclose(scores[:2, :2], (q[0, 0] @ k[0, 0].T)[0, 0], rtol=1e-5)
    patches = scores[2:, 2:].reshape(3, 5, 3, 5)
    np.testing.assert_allclose(patches[1:, 1:, 1:, 1:], patches[:-1, :-1, :-1, :-1], atol=1e-5)
    assert abs(patches[0, 0, 0, 1] - patches[0, 1, 0, 0]) > 0.1
    assert abs(patches[0, 0, 0, 1] - patches[0, 0, 1, 0]) > 0.1


def test_rotary_periods_reach_a_hundred_half_photos():
    exact, rounded = (positions.periods(64, rounding) for rounding in positions.ROTARY)
    np.testing.assert_allclose(exact[[0, 1, 8]], [1, 100 ** (1 / 16), 10], rtol=1e-6)
    np.testing.assert_array_equal(rounded[:4], [1, 1.3359375, 1.78125, 2.375])
