"""The order of a split's images, and their way onto the mesh."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding

Key = TypeVar("Key")
Loaded = TypeVar("Loaded")


class Images(Protocol):
    """uint8 [N, H, W, 3], of which rows are read: an array, a memory map, or drawn on demand."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W, 3]."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


def train_indices(step: int, *, num_images: int, batch_size: int, seed: int) -> np.ndarray:
    """The images [batch_size] of one training step: a function of (seed, step) alone.

    Each pass is a fresh permutation; a batch is always full, so a pass runs on into the next.
    """
    first = step * batch_size
    positions = np.arange(first, first + batch_size)
    passes = positions // num_images
    orders = {
        p: np.random.default_rng((seed, int(p))).permutation(num_images) for p in np.unique(passes)
    }
    return np.array([orders[p][i] for p, i in zip(passes, positions % num_images, strict=True)])


def train_order(num_steps: int, *, num_images: int, batch_size: int, seed: int) -> np.ndarray:
    """The images [num_steps, batch_size] of all steps at once, as `train_indices` has each."""
    num_passes = -(-num_steps * batch_size // num_images)
    passes = [np.random.default_rng((seed, p)).permutation(num_images) for p in range(num_passes)]
    return np.concatenate(passes)[: num_steps * batch_size].reshape(num_steps, batch_size)


def eval_indices(
    num_images: int, batch_size: int, *, first: int = 0
) -> Iterator[tuple[np.ndarray, int]]:
    """Every image from `first` on once, in order: (indices [batch_size], how many are real).

    The last batch is padded by its first image, so that every batch has one shape.
    """
    for start in range(first, num_images, batch_size):
        indices = np.arange(start, start + batch_size)
        count = min(batch_size, num_images - start)
        yield np.where(indices < num_images, indices, start), count


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """This process's rows of a batch, placed on the mesh."""
    return jax.make_array_from_process_local_data(sharding, np.ascontiguousarray(array))


def eval_batches(
    images: Images, batch_size: int, sharding: NamedSharding, *, first: int = 0
) -> Iterator[tuple[jax.Array, int]]:
    """The batches of `eval_indices` on the mesh, the next one loaded while one is worked on."""

    def load(piece: tuple[np.ndarray, int]) -> tuple[jax.Array, int]:
        indices, count = piece
        return place(images[indices], sharding), count

    return prefetched(load, eval_indices(len(images), batch_size, first=first))


def prefetched(load: Callable[[Key], Loaded], keys: Iterable[Key]) -> Iterator[Loaded]:
    """`load` of every key in order, each in a thread while the one before it is worked on."""
    with ThreadPoolExecutor(1) as loader:
        upcoming = None
        for key in keys:
            current, upcoming = upcoming, loader.submit(load, key)
            if current:
                yield current.result()
        if upcoming:
            yield upcoming.result()
