"""Resamples of images: how often each has which image, sums over them, and their intervals."""

from collections.abc import Callable, Iterator

import numpy as np
import scipy

MAX_COUNTS_PER_CHUNK = 1 << 20
"""Numbers that are worked with at once: some ten arrays of them take about 100 MB."""

MAX_BYTES_OF_COUNTS = 1 << 27
"""How many resamples are drawn at once: each draw ranks every class's images anew."""


def blocks(number: int, size: int) -> Iterator[slice]:
    """So many things of `size` numbers each, as many at once as are MAX_COUNTS_PER_CHUNK."""
    at_once = max(1, MAX_COUNTS_PER_CHUNK // max(1, size))
    return (slice(first, first + at_once) for first in range(0, number, at_once))


def columns(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Each column [N] of some arrays [N, C], copied several at once: a row's lie together."""
    num_rows, num_columns = arrays[0].shape
    for block in blocks(num_columns, num_rows):
        copies = (np.ascontiguousarray(of[:, block].T) for of in arrays)
        yield from zip(*copies, strict=True)


def once(num_images: int) -> np.ndarray:
    """Counts [N, 1] of the images themselves."""
    return np.ones((num_images, 1), np.min_scalar_type(num_images))


def draw_resamples(num_images: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """The counts of all resamples, a part of them after the other, at least one part."""
    rng, dtype = np.random.default_rng(seed), np.min_scalar_type(num_images)
    at_once = max(1, MAX_BYTES_OF_COUNTS // (num_images * dtype.itemsize))
    for first in range(0, max(1, num_resamples), at_once):
        yield draw_counts(rng, num_images, min(at_once, num_resamples - first))


def draw_counts(rng: np.random.Generator, num_images: int, num_resamples: int) -> np.ndarray:
    """How often each resample contains each image, [N, R], in the smallest type that holds N."""
    counts = np.empty((num_images, num_resamples), np.min_scalar_type(num_images))
    for r in range(num_resamples):
        drawn = rng.integers(num_images, size=num_images)
        counts[:, r] = np.bincount(drawn, minlength=num_images)
    return counts


def compact(counts: np.ndarray) -> np.ndarray:
    """The counts in the smallest type in which a resample's sum fits."""
    largest = int(counts.sum(axis=0).max(initial=0))
    return counts.astype(np.min_scalar_type(largest), copy=False)


def sums_by_class(flags: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The function from counts [N, R] to the sums [C, R], float64, over images with flags [N, C].

    Most photos have few of many classes, so that it adds up what is there and multiplies nothing.
    """
    rows = scipy.sparse.csr_array(flags.T, dtype=np.uint8)
    return lambda counts: (rows @ counts).astype(np.float64)


def mean_over_classes(samples: np.ndarray) -> np.ndarray:
    """samples [C, R] -> [R], NaN left out; NaN where there is nothing else."""
    present = np.isfinite(samples).sum(axis=0)
    total = np.nansum(samples, axis=0)
    return np.where(present > 0, total / np.maximum(present, 1), np.nan)


def interval_of(samples: np.ndarray) -> list[float] | None:
    """The middle 95 % of samples [R]; None if all are NaN."""
    present = samples[np.isfinite(samples)]
    return np.percentile(present, [2.5, 97.5]).tolist() if present.size else None
