"""With one process nothing is started, and each function does at once what it says."""

import jax
import numpy as np
import pytest

from vtl import processes
from vtl.data import batches
from vtl.errors import UserError
from vtl.training.state import by_batch, make_mesh


def test_one_process_is_the_first_of_one():
    assert (processes.index(), processes.count(), processes.is_first()) == (0, 1, True)
    assert jax.distributed.is_initialized() is False


@pytest.mark.parametrize("decorator", [processes.by_first, processes.in_first])
def test_a_function_of_the_first_process_is_called_once(decorator):
    calls = []

    @decorator
    def write(place, *, content):
        """Write."""
        calls.append((place, content))
        return object

    # Not as JSON has it: nobody else gets it.
    expected = object if decorator is processes.by_first else None
    assert write("there", content=1) is expected
    assert calls == [("there", 1)]
    assert (write.__name__, write.__doc__) == ("write", "Write.")


@pytest.mark.parametrize("decorator", [processes.by_first, processes.in_first])
def test_an_error_in_a_function_of_the_first_process_is_raised(decorator):
    @decorator
    def fail():
        raise UserError("wrong")

    with pytest.raises(UserError, match="wrong"):
        fail()


def test_what_is_gathered_or_broadcast_is_ones_own(tmp_path):
    value = {"any": object()}
    assert processes.gather(value) == [value]
    assert processes.broadcast(value) is value
    assert processes.sharing(tmp_path) == [0]
    assert list(tmp_path.iterdir()) == []
    processes.barrier()


def test_a_vote_of_one_is_what_it_wants():
    vote = processes.Vote(make_mesh())
    assert [vote(wants) for wants in (False, True, False)] == [False, True, False]
    assert [vote(wants, at_once=True) for wants in (True, False)] == [True, False]


def test_the_last_words_of_one_process_are_its_own(tmp_path):
    processes.log_to(tmp_path)
    assert processes.last_words("stopped", 130) == ("stopped", 130)
    processes.finish()
    assert list(tmp_path.iterdir()) == []


def test_errors_of_one_process_are_left_as_they_are():
    for error in (ValueError("odd"), UserError("wrong"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, processes.as_one():
            raise error
        assert raised.value is error


def test_what_differs_in_the_middle_of_a_long_text_differs(monkeypatch):
    rules, others = (f"[['fc/.*', 1.0], {'x' * 90}{rate}{'x' * 90}]" for rate in (1, 2))
    monkeypatch.setattr(processes, "gather", lambda facts: [facts, {**facts, "rules": others}])
    with pytest.raises(UserError, match="process 1 has another config than process 0: rules"):
        processes.check_same("config", {"seed": 0, "rules": rules})


@pytest.fixture
def told(monkeypatch):
    """A process of two that has heard that the other has ended."""
    job = processes._Job(index=1, count=2, heartbeat_s=0)
    job.has_word.set()
    monkeypatch.setattr(processes, "_job", job)


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("UNAVAILABLE: Failed to send RPC"),
        # Not a JaxRuntimeError, where it comes from the call of a compiled program.
        ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer"),
    ],
)
def test_what_breaks_because_another_process_ended_is_no_failure_of_this_one(told, error):
    with pytest.raises(KeyboardInterrupt), processes.as_one():
        raise error


def test_a_failure_of_one_process_is_told_to_all(told, capsys):
    with pytest.raises(UserError, match=r"process 1 failed: .*odd"), processes.as_one():
        raise ValueError("odd")
    assert "Traceback" in capsys.readouterr().err


class Read:
    """An array that keeps which rows were read."""

    shape = (9, 2)
    rows: list[int]

    def __getitem__(self, rows):
        self.rows = rows.tolist()
        return np.stack([rows, -rows], axis=1)


def test_one_process_places_the_whole_batch():
    array = Read()
    rows = np.array([7, 1, 8, 2])
    batch = batches.place(array, rows, by_batch(make_mesh()))
    assert array.rows == [7, 1, 8, 2]
    assert np.asarray(batch).tolist() == [[7, -7], [1, -1], [8, -8], [2, -2]]


@pytest.mark.parametrize(
    ("bounds", "read"),
    [([(0, 2), (2, 4)], [7, 1, 8, 2]), ([(6, 8), (4, 6)], [5, 0, 3, 6]), ([(2, 4)], [8, 2])],
)
def test_a_process_reads_only_the_rows_of_its_devices(monkeypatch, bounds, read):
    class Sharding:
        """Of a batch, these are the parts that this process's devices hold."""

        def addressable_devices_indices_map(self, shape):
            assert shape == (8, 2)
            return {i: (slice(*each), slice(None)) for i, each in enumerate(bounds)}

    def make(sharding, mine, shape):
        assert shape == (8, 2)  # that of all processes together
        return mine

    monkeypatch.setattr(jax, "make_array_from_process_local_data", make)
    array = Read()
    rows = np.array([7, 1, 8, 2, 5, 0, 3, 6])
    mine = batches.place(array, rows, Sharding())
    assert array.rows == read
    assert mine[:, 0].tolist() == read
    assert mine.flags.c_contiguous
