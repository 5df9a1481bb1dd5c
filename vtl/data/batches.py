"""The order in which a split's images come, and how batches get onto the mesh."""

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding

Key = TypeVar("Key")
Loaded = TypeVar("Loaded")


class Images(Protocol):
    """Images uint8 [N, H, W, 3]: an array, a memory map, or something that draws them on demand."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W, 3]."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


def train_indices(step: int, *, num_images: int, batch_size: int, seed: int) -> np.ndarray:
    """The images [batch_size] of one training step, a function of (seed, step) alone.

    Each pass is a fresh permutation. Batches are always full, so a pass runs on into the next.
    """
    first = step * batch_size
    passes, positions = np.divmod(np.arange(first, first + batch_size), num_images)
    orders = {number: _order(number, num_images, seed) for number in np.unique(passes).tolist()}
    return np.array([orders[p][i] for p, i in zip(passes.tolist(), positions, strict=True)])


def train_order(num_steps: int, *, num_images: int, batch_size: int, seed: int) -> np.ndarray:
    """The images [num_steps, batch_size] of all steps; row i is `train_indices` of step i."""
    num_passes = -(-num_steps * batch_size // num_images)
    passes = [_order(number, num_images, seed) for number in range(num_passes)]
    return np.concatenate(passes)[: num_steps * batch_size].reshape(num_steps, batch_size)


@functools.lru_cache(maxsize=2)
def _order(number: int, num_images: int, seed: int) -> np.ndarray:
    """The order [num_images] of one pass, counted from 0; kept, for all of its steps need it."""
    return np.random.default_rng((seed, number)).permutation(num_images)


def eval_indices(
    num_images: int, batch_size: int, *, first: int = 0
) -> Iterator[tuple[np.ndarray, int]]:
    """Every image from `first` on, once and in order: (indices [batch_size], number of real ones).

    Copies of its first image pad the last batch, so that all batches have the same shape.
    """
    for start in range(first, num_images, batch_size):
        indices = np.arange(start, start + batch_size)
        count = min(batch_size, num_images - start)
        yield np.where(indices < num_images, indices, start), count


def place(array: Any, rows: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Rows of an array on the mesh, as a batch; each process reads those of its own devices."""
    shape = (len(rows), *array.shape[1:])
    parts = sharding.addressable_devices_indices_map(shape).values()
    bounds = np.array([part[0].indices(len(rows))[:2] for part in parts if part])
    mine = array[rows[bounds.min() : bounds.max()]]
    return jax.make_array_from_process_local_data(sharding, np.ascontiguousarray(mine), shape)


def eval_batches(
    images: Images, batch_size: int, sharding: NamedSharding, *, first: int = 0
) -> Iterator[tuple[jax.Array, int]]:
    """The batches of `eval_indices` on the mesh; the next one loads while one is in use."""

    def load(batch: tuple[np.ndarray, int]) -> tuple[jax.Array, int]:
        indices, count = batch
        return place(images, indices, sharding), count

    return prefetched(load, eval_indices(len(images), batch_size, first=first))


def prefetched(load: Callable[[Key], Loaded], keys: Iterable[Key]) -> Iterator[Loaded]:
    """Yield `load(key)` for each key in order; a thread loads the next one while one is in use."""
    with ThreadPoolExecutor(1) as loader:
        upcoming = None
        for key in keys:
            current, upcoming = upcoming, loader.submit(load, key)
            if current:
                yield current.result()
        if upcoming:
            yield upcoming.result()
