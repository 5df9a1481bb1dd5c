"""Photos -> their pixels, ahead of their use, and where a batch of legible ones ends."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vtl.errors import UserError
from vtl.predict.photos import Photo

NUM_THREADS = min(32, (os.cpu_count() or 1) + 4)

_MOST_ROWS = 16
"""Of a batch, in multiples of its size: broken photos take no place in it, but some memory."""

Decode = Callable[[Path], np.ndarray]


def is_full(num_photos: int, num_legible: int, batch_size: int) -> bool:
    """Whether a batch ends after so many photos, of which so many are legible."""
    return num_legible in (0, batch_size) or num_photos >= _MOST_ROWS * batch_size


def decoded(photo: Photo, decode: Decode) -> np.ndarray | str:
    """A photo's pixels, or what is wrong with it."""
    if photo.problem:
        return photo.problem
    try:
        return decode(photo.path)
    except UserError as error:
        return str(error)


def decoded_ahead(
    photos: Iterable[Photo], decode: Decode, *, ahead: int
) -> Iterator[tuple[Photo, np.ndarray | str]]:
    """Each photo with its pixels, or with what is wrong with it, in order.

    Threads decode at most `ahead` photos, and one for each thread, beyond the one in use.
    """
    pool = ThreadPoolExecutor(NUM_THREADS, "decoding")
    waiting: deque[tuple[Photo, Future[np.ndarray | str]]] = deque()
    try:
        for photo in photos:
            waiting.append((photo, pool.submit(decoded, photo, decode)))
            if len(waiting) > ahead + NUM_THREADS:
                first, pixels = waiting.popleft()
                yield first, pixels.result()
        while waiting:
            first, pixels = waiting.popleft()
            yield first, pixels.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
