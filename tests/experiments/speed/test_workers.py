import multiprocessing
import os

import pytest

from experiments.speed import workers


def makers():
    """Made in the worker: what its steps do is seen by what they raise."""
    calls = []

    def count():
        calls.append(os.getpid())
        if len(calls) == 2:
            raise ValueError(f"{len(calls)} calls in {calls[0]}\nand a long story")

    return {"count": lambda: count, "die": lambda: lambda: os._exit(3)}


def test_steps_run_in_a_process_of_their_own(capfd):
    made, _ = workers.start(makers)
    assert list(made) == ["count", "die"]
    step = made["count"]()
    step()
    with pytest.raises(workers.PeerError) as error:
        step()
    # One line here; the traceback is the worker's.
    assert str(error.value).startswith("ValueError: 2 calls in ")
    assert str(os.getpid()) not in str(error.value)
    assert "long story" not in str(error.value)
    assert "Traceback" in capfd.readouterr().err
    step()


def test_a_worker_that_ends_is_an_error():
    made, _ = workers.start(makers)
    step = made["die"]()
    with pytest.raises(workers.PeerError, match="its process ended"):
        step()
    with pytest.raises(workers.PeerError, match="its process ended"):
        made["count"]()


def test_a_worker_ends_when_nobody_holds_its_steps():
    others = set(multiprocessing.active_children())
    made, _ = workers.start(makers)
    (process,) = set(multiprocessing.active_children()) - others
    step = made["count"]()
    del made
    step()
    del step
    process.join(timeout=60)
    assert process.exitcode == 0
