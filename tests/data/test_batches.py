import threading

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vtl.data import batches


def stream(num_steps, num_images, batch_size, seed=0, first=0):
    """The indices of steps `first` to `num_steps`, one batch after the other."""
    steps = [
        batches.train_indices(step, num_images=num_images, batch_size=batch_size, seed=seed)
        for step in range(first, num_steps)
    ]
    assert all(indices.shape == (batch_size,) for indices in steps)
    return np.concatenate(steps)


@pytest.mark.parametrize(
    ("num_images", "batch_size"), [(10, 5), (10, 4), (7, 3), (10, 10), (3, 8), (1, 4)]
)
def test_every_pass_is_a_permutation_and_runs_on_into_the_next(num_images, batch_size):
    indices = stream(num_images * 3, num_images, batch_size)
    passes = indices.reshape(-1, num_images)
    assert len(passes) == 3 * batch_size
    assert (np.sort(passes, axis=1) == np.arange(num_images)).all()


def test_passes_differ():
    passes = stream(4, num_images=20, batch_size=20).reshape(4, 20)
    assert len({tuple(order) for order in passes.tolist()}) == 4


def test_a_function_of_seed_and_step():
    all_steps = stream(9, num_images=7, batch_size=3)
    assert np.array_equal(stream(9, num_images=7, batch_size=3, first=4), all_steps[4 * 3 :])
    assert not np.array_equal(stream(9, num_images=7, batch_size=3, seed=1), all_steps)


def test_seed_and_pass_are_not_mixed_up():
    # Seed 1's first pass must not be seed 0's second.
    second = stream(2, num_images=50, batch_size=50)[50:]
    assert not np.array_equal(stream(1, num_images=50, batch_size=50, seed=1), second)


def test_the_order_is_the_same_for_ever():
    # A resumed run sees another order where this changes: don't.
    indices = stream(3, num_images=6, batch_size=4, seed=3)
    assert indices.tolist() == [2, 5, 4, 1, 3, 0, 1, 2, 0, 4, 5, 3]


@pytest.mark.parametrize(
    ("num_images", "batch_size", "counts"),
    [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3]), (1, 1, [1]), (0, 4, [])],
)
def test_evaluation_sees_every_image_once_in_order(num_images, batch_size, counts):
    pairs = list(batches.eval_indices(num_images, batch_size))
    assert [count for _, count in pairs] == counts
    assert all(indices.shape == (batch_size,) for indices, _ in pairs)
    real = [index for indices, count in pairs for index in indices[:count].tolist()]
    assert real == list(range(num_images))


def test_the_last_batch_is_padded_by_its_first_image():
    *_, (indices, count) = batches.eval_indices(10, 4)
    assert count == 2
    assert indices.tolist() == [8, 9, 8, 8]


def test_the_next_is_loaded_while_one_is_worked_on():
    begun = threading.Semaphore(0)

    def load(key):
        begun.release()
        return 10 * key

    loaded = batches.prefetched(load, [1, 2, 3])
    assert next(loaded) == 10
    assert begun.acquire(timeout=60)
    assert begun.acquire(timeout=60)  # of 2, which nobody asked for yet
    assert not begun.acquire(blocking=False)
    assert list(loaded) == [20, 30]
    assert list(batches.prefetched(load, [])) == []


def test_what_fails_a_load_is_raised_where_its_turn_is():
    loaded = batches.prefetched(lambda key: 1 / key, [1, 0])
    assert next(loaded) == 1
    with pytest.raises(ZeroDivisionError):
        next(loaded)


def test_place_keeps_the_rows():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    array = np.arange(mesh.size * 3 * 3, dtype=np.uint8).reshape(-1, 3)
    rows = np.arange(mesh.size * 2)[::-1]
    placed = batches.place(array, rows, sharding)
    assert placed.sharding == sharding
    assert placed.dtype == np.uint8
    assert np.array_equal(placed, array[rows])
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}


def test_place_takes_rows_that_are_not_contiguous():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = np.arange(12 * mesh.size, dtype=np.float32).reshape(4, -1).T[:, ::-2]
    assert not rows.flags.c_contiguous
    every = np.arange(len(rows))
    placed = batches.place(rows, every, NamedSharding(mesh, PartitionSpec("data")))
    assert np.array_equal(placed, rows)


def test_all_steps_at_once_are_the_steps_one_by_one():
    of = {"num_images": 10, "batch_size": 4, "seed": 3}
    one_by_one = [batches.train_indices(step, **of) for step in range(7)]
    np.testing.assert_array_equal(batches.train_order(7, **of), one_by_one)
