"""Photos -> deep features, as soon as a batch is decoded and while the next ones are."""

import tempfile
import weakref
from collections.abc import Callable, Iterator
from typing import BinaryIO

import jax
import numpy as np
from jax.sharding import NamedSharding

from vtl.data import batches
from vtl.data.decoded import Read
from vtl.files import cache_dir


class Ahead:
    """The features of a split's first photos, which follow the decoding: see `images.Follow`.

    They are in a file without a name, so that a stop, or photos that turn out to be broken, leave
    none. Whatever fails here ends it: `extract` meets it again once all photos are decoded.
    """

    def __init__(
        self,
        feature_step: Callable[[jax.Array], jax.Array],
        *,
        batch_size: int,
        sharding: NamedSharding,
    ):
        self._feature_step, self._batch_size, self._sharding = feature_step, batch_size, sharding
        self._num_done, self._has_failed = 0, False
        self._file: BinaryIO | None = None

    def __call__(self, read: Read, num_decoded: int, num_photos: int) -> None:
        """Compute the next batch if its photos are decoded; photos that pad it are read again."""
        rows, count = next(batches.eval_indices(num_photos, self._batch_size, first=self._num_done))
        if self._has_failed or self._num_done + count > num_decoded:
            return
        try:
            batch = batches.place(read(rows), np.arange(len(rows)), self._sharding)
            features = np.asarray(self._feature_step(batch), "<f4")[:count]
            self._opened().write(features.tobytes())
            self._num_done += count
        except Exception:  # of whatever kind: see above
            self._has_failed = True

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=cache_dir())  # noqa: SIM115 (open as long as this)
            weakref.finalize(self, self._file.close)
        return self._file

    def take(self, width: int) -> Iterator[np.ndarray]:
        """The features so far, [n, width] of a batch at a time."""
        self._opened().seek(0)
        for first in range(0, self._num_done, self._batch_size):
            count = min(self._batch_size, self._num_done - first)
            content = self._opened().read(count * width * 4)
            yield np.frombuffer(content, "<f4").reshape(count, width)
