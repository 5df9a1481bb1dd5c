import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtl.evaluation import evaluate
from vtl.training.state import by_batch, make_mesh


@pytest.mark.parametrize(
    ("num_images", "batch_size"), [(10, 4), (8, 4), (3, 4), (1, 1), (9, 8), (7, 1)]
)
def test_predict_equals_one_application_to_all(num_images, batch_size):
    rng = np.random.default_rng(num_images)
    mesh = make_mesh()
    batch_size *= mesh.size
    images = rng.integers(0, 256, (num_images, 4, 5, 3), np.uint8)
    # Small integers, so that float32 sums are exact whatever their order.
    kernel = rng.integers(-8, 9, (60, 2)).astype(np.float32)
    shapes = []

    @jax.jit
    def eval_step(variables, images):
        shapes.append(images.shape)
        rows = images.reshape(images.shape[0], -1).astype(jnp.float32)
        return rows @ variables["kernel"], rows[:, :7]

    scores, features = evaluate.predict(
        eval_step, {"kernel": kernel}, images, batch_size=batch_size, sharding=by_batch(mesh)
    )
    rows = images.reshape(num_images, -1).astype(np.float32)
    assert np.array_equal(scores, rows @ kernel)
    assert np.array_equal(features, rows[:, :7])
    assert scores.dtype == features.dtype == np.float32
    # Traced once: every batch has the same shape, the last one too.
    assert shapes == [(batch_size, 4, 5, 3)]


def test_predict_keeps_the_order():
    mesh = make_mesh()
    images = np.arange(13, dtype=np.uint8).reshape(13, 1, 1, 1)
    scores, _ = evaluate.predict(
        lambda variables, images: (images[:, :, 0, 0] * 1.0, images[:, :, 0, 0] * 1.0),
        {},
        images,
        batch_size=4 * mesh.size,
        sharding=by_batch(mesh),
    )
    assert scores[:, 0].tolist() == list(range(13))
