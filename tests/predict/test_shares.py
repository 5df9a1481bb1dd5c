"""Many processes predict what one does, to the byte, and go on after a kill."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.data.layouts.photos import write_photo
from tests.devices import environment
from tests.tiny import write_weights
from vtl import processes
from vtl.errors import UserError
from vtl.predict import shares
from vtl.predict.decoding import is_full
from vtl.predict.photos import Photo

ROOT = Path(__file__).parents[2]


class Threads:
    """Threads that take themselves for processes, which are so many."""

    def __init__(self, count, monkeypatch):
        self._here = threading.local()
        self._barrier = threading.Barrier(count, timeout=20)
        self._values = [None] * count
        self._count = count
        monkeypatch.setattr(processes, "count", lambda: count)
        monkeypatch.setattr(processes, "index", lambda: self._here.index)
        monkeypatch.setattr(processes, "gather", self._gather)

    def _gather(self, value):
        self._values[self._here.index] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values

    def run(self, function):
        def at(index):
            self._here.index = index
            return function(index)

        with ThreadPoolExecutor(self._count) as pool:
            return list(pool.map(at, range(self._count)))


def photos_of(is_legible):
    return [Photo(f"{i}.jpg", i, "" if good else "why") for i, good in enumerate(is_legible)]


def of_one_process(is_legible, size):
    """The batches, as numbers of photos, that one process makes."""
    batches, first = [], 0
    for end in range(1, len(is_legible) + 1):
        if end == len(is_legible) or is_full(end - first, sum(is_legible[first:end]), size):
            batches.append(list(range(first, end)))
            first = end
    return batches


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("chance", [1.0, 0.9, 0.5, 0.03, 0.0])
def test_batches_are_those_of_one_process(count, chance, monkeypatch):
    threads = Threads(count, monkeypatch)
    rng = np.random.default_rng(int(100 * chance) + count)
    for size, num_photos in ((1, 40), (2, 200), (4, 32), (4, 333), (8, 0), (8, 5)):
        is_legible = (rng.random(num_photos) < chance).tolist()
        decoded = [[] for _ in range(count)]

        def follow(index, size=size, is_legible=is_legible, decoded=decoded):
            def decode(number):
                decoded[index].append(number)
                return np.full(2, number)

            taken = []
            for batches in shares.rounds(photos_of(is_legible), size, decode):
                owners = [batch.process for batch in batches if batch.process is not None]
                assert owners == list(range(len(owners)))
                for batch in batches:
                    numbers = [photo.path for photo in batch.photos]
                    taken.append(numbers)
                    legible = [number for number in numbers if is_legible[number]]
                    assert (batch.process is None) == (not legible)
                    assert [not problem for problem in batch.problems] == [
                        is_legible[number] for number in numbers
                    ]
                    if batch.process == index:
                        assert [pixels[0] for pixels in shares.pixels(batch)] == legible
                    else:
                        assert batch.decoding == []
            return taken

        expected = of_one_process(is_legible, size)
        assert threads.run(follow) == [expected] * count
        if chance == 1:  # nothing is decoded twice
            assert sorted(itertools.chain(*decoded)) == list(range(num_photos))
            assert max(map(len, decoded)) - min(map(len, decoded)) <= size


def test_other_photos_are_refused(monkeypatch):
    def follow(index):
        photos = photos_of([True] * (9 + index))
        with pytest.raises(UserError, match="do not see the same photos"):
            list(shares.rounds(photos, 4, lambda number: np.full(2, number)))

    Threads(2, monkeypatch).run(follow)


def test_a_photo_that_only_one_process_can_read_is_a_line(monkeypatch):
    def follow(index):
        def decode(number):
            if index == 0 and number == 2:  # of the share of process 1
                raise UserError("2.jpg can't be opened")
            return np.full(2, number)

        photos = photos_of([False, True, True, True])
        rounds = shares.rounds(photos, 2, decode)
        broken, batch = next(rounds)
        assert (len(broken.photos), len(batch.photos), batch.process) == (1, 2, 0)
        return shares.pixels(batch) if index == 0 else []

    with pytest.raises(UserError, match=r"process 0 can't read what another could: 2\.jpg"):
        Threads(2, monkeypatch).run(follow)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A network, and photos of which some are broken."""
    directory = tmp_path_factory.mktemp("tiny")
    for number in range(210):
        path = directory / "photos" / f"{number:03d}.png"
        write_photo(path, number, size=40)
        if number in (0, 5, 6, 40, 41, 42, 150, 209):
            path.write_bytes(b"no photo")
    return write_weights(directory / "tiny.safetensors"), directory / "photos"


def start(count, *arguments, slowly=False):
    """`vtl predict` in so many processes, of which each writes what it says to a pipe."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = ["-c", SLOWLY] if slowly else ["-m", "vtl.predict"]
    of_all = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
    command = [sys.executable, *program, *map(str, arguments), *of_all, "--heartbeat_seconds=3"]
    return [
        subprocess.Popen(
            [*command, f"--process_id={index}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(1),
            cwd=ROOT,
        )
        for index in range(count)
    ]


def ends_of(started):
    """The last words and the exit status of each."""
    try:
        said = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(text, process.returncode) for text, process in zip(said, started, strict=True)]


def predict_alone(weights, photos, output):
    command = [sys.executable, "-m", "vtl.predict", str(weights), str(photos), "-o", str(output)]
    subprocess.run(command, env=environment(1), cwd=ROOT, capture_output=True, timeout=120)
    return output.read_bytes()


@pytest.mark.full
def test_the_table_is_that_of_one_process_also_after_kills(tiny, tmp_path):
    weights, photos = tiny
    whole = predict_alone(weights, photos, tmp_path / "whole.csv")
    output = tmp_path / "p.csv"
    arguments = (weights, photos, "-o", output)
    for victim, number, status in (
        (1, signal.SIGKILL, 1),
        (0, signal.SIGKILL, 1),
        (1, signal.SIGTERM, 130),
    ):
        started = start(2, *arguments, slowly=True)
        unfinished = output.with_name("unfinished_p.csv")
        before = unfinished.stat().st_size if unfinished.exists() else 0
        end = time.monotonic() + 120
        while not unfinished.exists() or unfinished.stat().st_size <= before:
            assert time.monotonic() < end
            assert [process.poll() for process in started] == [None, None]
            time.sleep(0.02)
        os.kill(started[victim].pid, number)
        ends = ends_of(started)
        said, returned = ends[1 - victim]
        assert returned == status
        expected = (
            f"vtl: process {victim} is gone; the same commands go on from what is saved"
            if number == signal.SIGKILL
            else "vtl: stopped; run the same command again to go on"
        )
        assert said.strip().endswith(expected)  # perhaps beside a bar of progress
        assert not output.exists()
    (said, status), (silent, other) = ends_of(start(2, *arguments))
    assert (status, other, silent) == (1, 1, "")
    assert "2 processes with 1 device each" in said
    assert "of them before it was stopped" in said
    assert "vtl: 8 of 210 photos can't be read" in said
    assert output.read_bytes() == whole


SLOWLY = """
import sys, time
from vtl import stops
from vtl.predict import __main__ as command
from vtl.predict.predictor import Predictor
judge = Predictor.judge
def judge_slowly(*arguments):
    time.sleep(0.5)
    return judge(*arguments)
Predictor.judge = judge_slowly
with stops.in_one_line():
    sys.exit(command.main())
"""
