"""The lab's generator: batches of one subset for Python code that follows the lab sheet."""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from absl import logging

from vtl.data import images, voc
from vtl.errors import UserError
from vtl.preprocessing import LAB, Preprocessing, normalise


class HasPreprocessing(Protocol):
    """Weights, as `vtl.weights.sources.load` gives them."""

    @property
    def preprocessing(self) -> Preprocessing:
        """What their photos must be."""


class PascalVOCDataGenerator:
    """The lab's generator of one subset: its attributes, and batches for the network.

    It prepares photos for `weights`, or by `preprocessing`. Without either it prepares them as the
    lab's weights, Keras' ResNet-50, want them, and prints a line that says so.

    Unlike the lab's, it keeps the order of the split file unless you ask it to shuffle, so that row
    i belongs to `images_ids_in_subset[i]`.
    """

    def __init__(
        self,
        subset: str,
        data_dir: str | Path,
        preprocessing: Preprocessing | None = None,
        *,
        weights: HasPreprocessing | None = None,
    ):
        if preprocessing and weights:
            raise UserError("weights and preprocessing both say how to prepare photos: give one")
        self._split = voc.read_split(data_dir, subset)
        if weights:
            preprocessing = weights.preprocessing
        self._preprocessing = preprocessing or _labs_own()
        self.images_ids_in_subset = list(self._split.ids)
        self.id_to_label = dict(zip(self._split.ids, np.asarray(self._split.labels), strict=True))
        self.nb_classes = len(self._split.classes)

    def flow(
        self, batch_size: int = 32, *, shuffle: bool = False, seed: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield float32 batches (X [B, 224, 224, 3], Y [B, C]) in endless passes.

        X is preprocessed for the weights and decoded anew in every pass. The last batch of a pass
        may be partial. The hand-out's loop asks for len // batch_size + 1 batches, which is one too
        many if batch_size divides len.

        Raises:
            UserError: batch_size is below 1.
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        preprocessing = self._preprocessing
        size = preprocessing.stored_size(crops=False)
        margin = round((size - preprocessing.crop_size) / 2)
        seen = slice(margin, margin + preprocessing.crop_size)
        for pass_number in itertools.count():
            order = np.arange(len(self._split))
            if shuffle:
                order = np.random.default_rng((seed, pass_number)).permutation(order)
            for first in range(0, len(order), batch_size):
                rows = order[first : first + batch_size]
                photos = [
                    images.resize(
                        images.load_rgb(self._split.paths[row]),
                        size,
                        preprocessing.resize,
                        preprocessing.interpolation,
                    )[seen, seen]
                    for row in rows
                ]
                X = np.asarray(normalise(np.stack(photos), preprocessing))
                yield X, self._split.labels[rows].astype(np.float32)


@functools.cache
def _labs_own() -> Preprocessing:
    """What the lab's own call means; the line that says so comes once."""
    logging.warning(
        "photos are prepared for Keras' ResNet-50: BGR less the mean, squashed to %d pixels. With "
        "other weights say PascalVOCDataGenerator(subset, data_dir, weights=weights)",
        LAB.crop_size,
    )
    return LAB
