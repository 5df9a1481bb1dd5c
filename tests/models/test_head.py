"""Heads beside the formulas in NumPy, PyTorch's pooling, and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtl.models import head

NUM_CHANNELS, NUM_CLASSES = 6, 3
HEADS = [
    (pooling, transform, regions)
    for pooling in head.POOLINGS
    for transform, regions in (("none", 0), ("l2", 2), ("sqrt_l2", 3))
]


def maps_of(height=7, width=6, seed=0):
    """As after a ReLU: many zeros."""
    maps = np.random.default_rng(seed).normal(size=(4, height, width, NUM_CHANNELS))
    return np.maximum(maps, 0).astype(np.float32)


def seen_of(maps=None):
    """Maps, and a summary and points that have nothing to do with them."""
    maps = maps_of() if maps is None else maps
    rng = np.random.default_rng(3)
    summary, points = rng.normal(size=(len(maps), NUM_CHANNELS)), rng.normal(size=maps.shape)
    return head.Seen(maps, summary.astype(np.float32), points.astype(np.float32))


def kernel_of(pooling, seed=1):
    width = head.num_features(NUM_CHANNELS, pooling)
    return np.random.default_rng(seed).normal(size=(width, NUM_CLASSES)).astype(np.float32)


def pooled_by_numpy(seen, pooling):
    maps = seen.maps
    average, maximum = maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))
    if pooling == "cells":
        middle = [-(-side // 2) for side in maps.shape[1:3]]
        starts = [side // 2 for side in maps.shape[1:3]]
        halves = [
            maps[:, rows, columns].mean(axis=(1, 2))
            for rows in (slice(middle[0]), slice(starts[0], None))
            for columns in (slice(middle[1]), slice(starts[1], None))
        ]
        return np.max(halves, axis=0)
    return {
        "average": average,
        "maximum": maximum,
        "both": np.concatenate([average, maximum], axis=1),
        "token": seen.summary,
        "token_average": np.concatenate([seen.summary, average], axis=1),
    }[pooling]


def transformed_by_numpy(features, transform):
    if transform == "sqrt_l2":
        features = np.sign(features) * np.sqrt(np.abs(features))
    if transform == "none":
        return features
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


@pytest.mark.parametrize("pooling", head.POOLINGS)
def test_pooling_is_the_formula(pooling):
    np.testing.assert_allclose(
        head.pooled(seen_of(), pooling), pooled_by_numpy(seen_of(), pooling), rtol=1e-6
    )


@pytest.mark.parametrize("transform", head.TRANSFORMS)
def test_a_transform_is_the_formula(transform):
    features = np.random.default_rng(0).normal(size=(5, 2, 30)).astype(np.float32)
    expected = transformed_by_numpy(features.astype(np.float64), transform)
    np.testing.assert_allclose(head.transformed(features, transform), expected, atol=2e-4)


@pytest.mark.parametrize("transform", head.TRANSFORMS)
def test_nothing_stays_nothing_with_finite_gradients(transform):
    nothing = jnp.zeros((2, 5))
    np.testing.assert_array_equal(head.transformed(nothing, transform), nothing)
    gradient = jax.grad(lambda x: jnp.sum(head.transformed(x, transform)))(nothing)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("side", "cells"), [(7, ((0, 4), (3, 7))), (14, ((0, 7), (7, 14)))])
def test_cells_come_by_rows(side, cells):
    """Rows of the grid first, then columns; both halves of an odd side have its middle row."""
    maps = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    means = np.asarray(head.pooled_cells(head.Seen(maps), 2, "average")).reshape(2, 2, 2, 3)
    for row, (top, bottom) in enumerate(cells):
        for column, (left, right) in enumerate(cells):
            expected = maps[:, top:bottom, left:right].mean(axis=(1, 2))
            np.testing.assert_allclose(means[:, row, column], expected, atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("grid", [2, 3, 7])
def test_cells_are_those_of_pytorchs_adaptive_pooling(grid):
    torch = pytest.importorskip("torch")
    maps = torch.tensor(maps_of(9, 8).transpose(0, 3, 1, 2))
    theirs = torch.nn.functional.adaptive_avg_pool2d(maps, grid).flatten(2).mT
    ours = head.pooled_cells(head.Seen(maps_of(9, 8)), grid, "average")
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    theirs = torch.nn.functional.adaptive_max_pool2d(maps, grid).flatten(2).mT
    ours = head.pooled_cells(head.Seen(maps_of(9, 8)), grid, "maximum")
    np.testing.assert_array_equal(ours, theirs)


def test_a_logit_is_the_mean_of_the_photos_and_its_best_cells():
    of_views = np.array([[[1.0, 4.0], [3.0, -2.0], [-5.0, 0.0]]])
    np.testing.assert_array_equal(head.logits_of(of_views), [[2.0, 2.0]])
    np.testing.assert_array_equal(head.logits_of(of_views[:, :1]), [[1.0, 4.0]])


@pytest.mark.parametrize(("pooling", "transform", "regions"), HEADS)
def test_the_evidence_adds_up_to_the_logit(pooling, transform, regions):
    maps, kernel = maps_of(), kernel_of(pooling)
    maps[0] = 0  # a photo in which no channel responds
    seen = seen_of(maps)
    views = jax.jit(lambda: head.transformed(head.views(seen, pooling, regions), transform))()
    logits = head.logits_of(views @ kernel)
    of_head = {"pooling": pooling, "transform": transform, "regions": regions}
    evidence = jax.jit(lambda: head.evidence(seen, kernel, **of_head))()
    assert evidence.shape == (*maps.shape[:3], NUM_CLASSES)
    np.testing.assert_allclose(np.mean(evidence, axis=(1, 2)), logits, rtol=1e-4, atol=1e-5)


def test_the_evidence_of_a_plain_head_is_the_class_activation_map():
    maps, kernel = maps_of(), kernel_of("average")
    plain = {"pooling": "average", "transform": "none", "regions": 0}
    np.testing.assert_allclose(
        head.evidence(head.Seen(maps), kernel, **plain), maps @ kernel, rtol=1e-5
    )


def test_the_evidence_of_a_token_is_its_points_and_an_even_rest():
    seen, kernel = seen_of(), kernel_of("token")
    plain = {"pooling": "token", "transform": "none", "regions": 0}
    of_points = seen.points @ kernel
    rest = seen.summary @ kernel - of_points.mean(axis=(1, 2))
    evidence = head.evidence(seen, kernel, **plain)
    np.testing.assert_allclose(evidence, of_points + rest[:, None, None], rtol=1e-4, atol=1e-5)


def test_evidence_lies_where_the_best_cell_does():
    """A channel that responds in one corner alone: half its evidence is of that cell."""
    maps = np.zeros((1, 6, 6, 1), np.float32)
    maps[0, 4:, 4:] = 1
    of_head = {"pooling": "average", "transform": "none", "regions": 3}
    kernel = np.ones((1, 1), np.float32)
    evidence = jax.jit(lambda: head.evidence(head.Seen(maps), kernel, **of_head))()[0, :, :, 0]
    assert np.count_nonzero(evidence) == 4
    np.testing.assert_allclose(evidence[4:, 4:], (1 + 9) / 2, rtol=1e-6)


@pytest.mark.parametrize("pooling", head.POOLINGS)
def test_gradients_are_those_of_finite_differences(pooling):
    kernel, seen = kernel_of(pooling), [np.abs(part) + 0.5 for part in seen_of()]
    rng = np.random.default_rng(2)
    directions = [rng.normal(size=part.shape).astype(np.float32) for part in seen]

    @jax.jit
    def loss(step):
        moved = (part + step * way for part, way in zip(seen, directions, strict=True))
        views = head.views(head.Seen(*moved), pooling, 2)
        return jnp.sum(head.logits_of(head.transformed(views, "sqrt_l2") @ kernel) ** 2)

    step = 1e-3
    expected = (loss(step) - loss(-step)) / (2 * step)
    assert float(jax.grad(loss)(0.0)) == pytest.approx(float(expected), rel=3e-2)
