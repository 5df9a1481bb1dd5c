"""Batches of photos, each decoded by one of many processes, the same ones as one process makes.

All processes go through the same photos in rounds. In a round each finds out which photos of its
share are legible, and tells the others. Then all know where batches end, and each takes one: mostly
its share; where photos are broken, it decodes a few more.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from vtl import processes
from vtl.errors import UserError
from vtl.predict.decoding import NUM_THREADS, Decode, decoded, is_full
from vtl.predict.photos import Photo
from vtl.untrusted import printable


class Batch(NamedTuple):
    """Photos, why each can't be read ("" if it can), and which process judges those that can.

    `process` is None if there are none. That process decodes them; in others there is no future.
    """

    photos: list[Photo]
    problems: list[str]
    process: int | None
    decoding: list[Future[np.ndarray | str]]


def rounds(photos: Iterable[Photo], size: int, decode: Decode) -> Iterator[list[Batch]]:
    """The batches of each round, at most one a process, in the order of photos.

    Raises:
        UserError: the processes have other photos.
    """
    in_all = size * processes.count()
    pool = ThreadPoolExecutor(NUM_THREADS, "decoding")
    try:
        window = _Window(iter(photos), size, lambda photo: pool.submit(decoded, photo, decode))
        window.fill(in_all)
        while True:
            window.check()
            if not window.photos:
                return
            batches = window.take()
            window.fill(in_all if batches else len(window.photos) + in_all)
            yield batches
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def pixels(batch: Batch) -> list[np.ndarray]:
    """Those of a batch of this process.

    Raises:
        UserError: it can't read what another process could.
    """
    found = []
    legible = (p for p, problem in zip(batch.photos, batch.problems, strict=True) if not problem)
    for photo, future in zip(legible, batch.decoding, strict=True):
        result = future.result()
        if isinstance(result, str):
            raise UserError(
                f"process {processes.index()} can't read what another could: {result}\n"
                f"Let all processes see {printable(photo.name)}."
            )
        found.append(result)
    return found


class _Window:
    """The photos from the first that no batch has had yet; of the first of them all know problems.

    A photo's place counts from the first photo of all.
    """

    def __init__(
        self,
        stream: Iterator[Photo],
        size: int,
        submit: Callable[[Photo], Future[np.ndarray | str]],
    ):
        self.photos: list[Photo] = []
        self._problems: list[str] = []
        self._stream, self._size, self._submit = stream, size, submit
        self._start = 0
        self._is_end = False
        self._decoding: dict[int, Future[np.ndarray | str]] = {}

    def fill(self, num_photos: int) -> None:
        """Read on until there are so many, and begin to decode this process's share of them."""
        before = len(self.photos)
        self.photos += itertools.islice(self._stream, max(0, num_photos - before))
        self._is_end = len(self.photos) < num_photos
        for number in range(before, len(self.photos)):
            if number // self._size % processes.count() == processes.index():
                self._decoding[self._start + number] = self._submit(self.photos[number])

    def check(self) -> None:
        """Tell the other processes which photos of this one's share can't be read."""
        new = range(len(self._problems), len(self.photos))
        names = "\n".join(self.photos[number].name for number in new)
        digest = hashlib.sha256(names.encode(errors="backslashreplace")).hexdigest()
        mine = {}
        for number in new:
            future = self._decoding.get(self._start + number)
            if future and isinstance(problem := future.result(), str):
                mine[str(number)] = problem
        told = processes.gather([digest, mine])
        if any(theirs != digest for theirs, _ in told):
            raise UserError(
                "the processes do not see the same photos\n"
                "Give all of them the same names, in folders and tables that are the same."
            )
        by_number = {number: problem for _, theirs in told for number, problem in theirs.items()}
        self._problems += [by_number.get(str(number), "") for number in new]

    def take(self) -> list[Batch]:
        """The batches that are full, or the last; at most one a process, and those of none."""
        batches: list[Batch] = []
        first = num_legible = num_shared = 0
        for end, problem in enumerate(self._problems, start=1):
            num_legible += not problem
            is_last = self._is_end and end == len(self.photos)
            if is_last or is_full(end - first, num_legible, self._size):
                batches.append(self._batch(first, end, num_shared if num_legible else None))
                num_shared += num_legible > 0
                first, num_legible = end, 0
                if num_shared == processes.count():
                    break
        del self.photos[:first], self._problems[:first]
        self._start += first
        for place in [place for place in self._decoding if place < self._start]:
            del self._decoding[place]
        return batches

    def _batch(self, first: int, end: int, process: int | None) -> Batch:
        decoding = []
        for number in range(first, end) if process == processes.index() else ():
            if not self._problems[number]:
                begun = self._decoding.get(self._start + number)
                decoding.append(begun or self._submit(self.photos[number]))
        return Batch(self.photos[first:end], self._problems[first:end], process, decoding)
