"""Many processes at one job: who is there, what they agree on, and how they end together.

The only module that knows `jax.distributed`. One process is the usual case: nothing is started, and
every function here does at once what it says. Of many, the first one prints, and writes what is
written once. Words between them go through the key-value store of JAX's coordination service, which
the first process holds, and arrays through collectives (Gloo on CPUs, NCCL on GPUs).
"""

import ctypes
import functools
import itertools
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax._src import distributed  # the key-value store has no public name
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vtl import console, stops
from vtl.errors import UserError
from vtl.places import HEARTBEAT_S, INITIALIZATION_TIMEOUT_S, Place, find_place, local_gpus
from vtl.untrusted import printable, reason_of

Result = TypeVar("Result")

_WORD = "vtl/word"
"""The key of the message that a process ends all with."""

STOPPED = "stopped; run the same command again to resume"

_POLL_MS = 1000
_TOKEN_S = 3600.0
_GRACE_S = 10.0
"""How long a process may take to clear away what it has half done when another has ended."""


class _Word(NamedTuple):
    message: str
    status: int


class _Job:
    """What there is to know of a job of many processes, in one of them."""

    def __init__(self, index: int, count: int, heartbeat_s: int):
        self.index = index
        self.count = count
        self.heartbeat_s = heartbeat_s
        self.client: Any = distributed.global_state.client
        self.numbers = itertools.count()
        self.is_alone = False
        self.is_logging = False
        self.word: _Word | None = None
        self.has_word = threading.Event()
        self.last_round: Round | None = None
        self.is_ending = threading.Event()
        self.ending = threading.Lock()
        self.gone: set[int] = set()
        self.last_words = threading.Lock()


_job: _Job | None = None


def index() -> int:
    """Which process this is, from 0."""
    return _job.index if _job else 0


def count() -> int:
    """How many processes there are at work here."""
    return _job.count if _job and not _job.is_alone else 1


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    return index() == 0


def join(flags: Mapping[str, Any]) -> None:
    """Join the other processes, where there are some, by the values of `FLAGS`.

    Raises:
        UserError: as `find_place` and `start` do.
    """
    place = find_place(Place(*(flags[name] for name in Place._fields)))
    if place:
        start(
            place,
            heartbeat_s=flags["heartbeat_seconds"],
            initialization_timeout_s=flags["initialization_timeout"],
        )
        console.outlive_readers()


def meet() -> None:
    """Say how many processes have joined, and have all their devices exchange something.

    Gloo gives up on processes that come to the first collective of their devices more than 30 s
    apart, such as when only some must compile; it waits at later ones.
    """
    if not _job:
        return
    console.say(describe())
    mesh = Mesh(np.array(jax.devices()), ("all",))
    here = np.zeros(jax.local_device_count(), np.float32)
    by_device = NamedSharding(mesh, PartitionSpec("all"))
    flags = jax.make_array_from_process_local_data(by_device, here)
    everywhere = NamedSharding(mesh, PartitionSpec())
    jax.block_until_ready(jax.jit(jnp.sum, out_shardings=everywhere)(flags))


def start(
    place: Place,
    *,
    heartbeat_s: int = HEARTBEAT_S,
    initialization_timeout_s: int = INITIALIZATION_TIMEOUT_S,
) -> None:
    """Join the other processes. JAX must not have computed anything yet.

    From here on only the first process prints; see `log_to`.

    Raises:
        UserError: the others can't be reached in time.
    """
    global _job
    _keep_streams()
    # Python's handlers stay, and `Vote` agrees on the step: JAX's own would replace them.
    jax.config.update("jax_enable_preemption_service", False)
    # Otherwise JAX aborts the survivors of a process that died before they can say so.
    jax.config.update("jax_enable_recoverability", True)
    jax.config.update("jax_check_proxy_envs", False)  # `_without_proxy` sees to that
    where = printable(place.coordinator or "the cluster's first process")
    lost = (
        f"the processes did not find each other at {where} within {initialization_timeout_s} s\n"
        "Start all of them, with the same --coordinator and --num_processes, and a --process_id "
        "each."
    )
    _speak_before_abort(lambda: stops.leave(f"vtl: {lost}", sys.stderr, 1))
    pool = ThreadPoolExecutor(1)  # for a stop is not heard within JAX's C++
    try:
        with _without_proxy():
            connecting = pool.submit(
                jax.distributed.initialize,
                *place,
                local_device_ids=local_gpus(os.environ),
                initialization_timeout=initialization_timeout_s,
                heartbeat_timeout_seconds=heartbeat_s,
            )
            connecting.result()
    except Exception as error:  # of many kinds
        raise UserError(f"{lost} ({reason_of(error)})") from error
    finally:
        pool.shutdown(wait=False)
    state = distributed.global_state
    job = _job = _Job(state.process_id, state.num_processes, heartbeat_s)
    _speak_before_abort(lambda: _leave_now(job, _aborted(job)))
    if not is_first():
        _send_output_to(os.devnull, python_too=True)
    for watch in (_listen, _watch):
        threading.Thread(target=watch, args=(job,), daemon=True).start()


@contextmanager
def _without_proxy() -> Iterator[None]:
    """JAX's processes speak with each other over gRPC, which would ask the way out for the way."""
    names = [name for name in ("grpc_proxy", "https_proxy", "http_proxy") if name in os.environ]
    before = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(before)


def describe() -> str:
    """As in `4 processes with 2 devices each`, or `1 process with 2 devices`.

    Raises:
        UserError: some have more than others.
    """
    each = jax.local_device_count()
    if any(number != each for number in gather(each)):
        raise UserError("every process needs as many devices as the others")
    devices = f"{each} device{'s' if each > 1 else ''}"
    return (
        f"{count()} processes with {devices} each" if count() > 1 else f"1 process with {devices}"
    )


# What is printed.

_terminal: int | None = None
"""The standard error that this process was started with."""


def _keep_streams() -> None:
    """Python goes on printing where it did; what C++ prints, such as Gloo's lines, is not shown."""
    global _terminal
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        getattr(sys, name).flush()
        stream = os.fdopen(os.dup(descriptor), "w", buffering=1, errors="backslashreplace")
        setattr(sys, name, stream)
    _terminal = os.dup(2)
    logging.get_absl_handler().python_handler.stream = sys.stderr
    _send_output_to(os.devnull, python_too=False)


def _send_output_to(path: str | os.PathLike[str], *, python_too: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for target in (1, 2, *((sys.stdout.fileno(), sys.stderr.fileno()) if python_too else ())):
        os.dup2(descriptor, target)
    os.close(descriptor)


def log_to(directory: Path) -> None:
    """From here on what isn't for the terminal goes to process_INDEX.log in the run's directory."""
    if _job and not _job.is_logging:
        with suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)  # it may be on another machine's disk
            _job.is_logging = True
            _send_output_to(directory / f"process_{index()}.log", python_too=not is_first())


# What they agree on.


class Round:
    """Something that every process may tell the others once. A name is used for one round only."""

    def __init__(self, name: str):
        self._name = f"vtl/{name}"
        self._own: Any = None
        self._has_told = False

    def tell(self, value: Any) -> None:
        """Tell the others something that JSON can say; only the first time counts."""
        if self._has_told:
            return
        self._own, self._has_told = value, True
        if _job:
            _job.client.key_value_set(f"{self._name}/{index()}", json.dumps(value))

    def forget(self) -> None:
        """Free what this process told; all have heard it."""
        if _job:
            _job.client.key_value_delete(f"{self._name}/{index()}")

    def hear(self, indices: Iterable[int], within_s: float | None = None) -> list[Any]:
        """What these processes tell; None for those that don't `within_s`, if that is given."""
        if not _job:
            return [self._own]
        end = None if within_s is None else time.monotonic() + within_s
        told = [_wait_for(f"{self._name}/{i}", end) for i in indices]
        return [None if text is None else json.loads(text) for text in told]


def gather(value: Any) -> list[Any]:
    """Every process's value, as JSON has it, in the order of processes."""
    if count() == 1:
        return [value]
    assert _job
    everyone = Round(str(next(_job.numbers)))
    everyone.tell(value)
    told = everyone.hear(range(count()))
    if _job.last_round:  # which all have heard, for they have told something since
        _job.last_round.forget()
    _job.last_round = everyone
    return told


def barrier() -> None:
    """Wait until all processes are here."""
    gather(None)


def check_same(what: str, facts: Mapping[str, Any]) -> None:
    """Refuse processes that were started for different things, by what each has for its facts.

    Raises:
        UserError: one has something else than the first.
    """
    first, *others = gather(dict(facts))
    for number, other in enumerate(others, start=1):
        for key in sorted(first.keys() | other.keys()):
            if first.get(key) != other.get(key):
                here, there = (printable(str(told.get(key)), 100) for told in (first, other))
                raise UserError(
                    f"process {number} has another {what} than process 0: {key} is {there} and not "
                    f"{here}\nStart all of them with one command, on the same photos and weights."
                )


def by_first(function: Callable[..., Result]) -> Callable[..., Result]:
    """Let the first process alone call a function; all get its result, as JSON has it.

    They get its UserError, too. What it calls that is such a function itself is called at once.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Result:
        if not _job or _job.is_alone:
            return function(*arguments, **named)
        name = f"vtl/{next(_job.numbers)}/{function.__name__}"
        if not is_first():
            outcome = json.loads(_wait_for(name) or "")
            if "error" in outcome:
                raise UserError(outcome["error"])
            return outcome["value"]
        try:
            with alone():
                value = function(*arguments, **named)
        except UserError as error:
            _job.client.key_value_set(name, json.dumps({"error": str(error)}))
            raise
        _job.client.key_value_set(name, json.dumps({"value": value}))
        return value

    return call


def in_first(function: Callable[..., None]) -> Callable[..., None]:
    """Let the first process alone call a function, such as one that writes; nobody waits."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> None:
        if is_first():
            with alone():
                function(*arguments, **named)

    return call


@contextmanager
def alone() -> Iterator[None]:
    """Within it the other processes are not asked: they wait elsewhere."""
    was_alone = _job and _job.is_alone
    if _job:
        _job.is_alone = True
    try:
        yield
    finally:
        if _job:
            _job.is_alone = bool(was_alone)


def _wait_for(key: str, end: float | None = None) -> str | None:
    """The value of a key that another process sets; None once it is later than `end`."""
    assert _job
    while end is None or time.monotonic() < end:
        try:
            return _job.client.blocking_key_value_get(key, _POLL_MS)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
    return None


def sharing(directory: Path) -> list[int]:
    """The processes that see the same directory as this one, itself among them.

    That is found out: each writes a file there, and looks for those of the others.
    """
    if count() == 1:
        return [index()]
    directory.mkdir(parents=True, exist_ok=True)
    for left in directory.glob(".*.here"):  # by a process that was killed just then
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _TOKEN_S:
                left.unlink()
    token = directory / f".{index()}.{uuid.uuid4().hex}.here"
    token.touch()
    try:
        tokens = gather(token.name)
        seen = [i for i, name in enumerate(tokens) if (directory / name).exists()]
        barrier()
    finally:
        token.unlink(missing_ok=True)
    return seen


def broadcast(tree: Any) -> Any:
    """The first process's arrays, to the bit, in all processes.

    Those of the others must have the same shapes and types.
    """
    if count() == 1:
        return tree
    barrier()  # see `meet`: this is among other groups of devices
    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.asarray(leaf) for leaf in leaves]
    flat = np.concatenate([np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in arrays])
    words = np.pad(flat, (0, -len(flat) % 4)).view(np.uint32)
    received = np.asarray(multihost_utils.broadcast_one_to_all(words)).view(np.uint8)
    ends = np.cumsum([array.nbytes for array in arrays])
    parts = np.split(received[: len(flat)], ends[:-1])
    return jax.tree.unflatten(
        structure,
        [p.view(a.dtype).reshape(a.shape) for p, a in zip(parts, arrays, strict=True)],
    )


def all_gather(tree: Any) -> Any:
    """Every process's arrays, [processes, ...] for [...], in the order of processes.

    They must have the same shapes and types in all.
    """
    if count() == 1:
        return jax.tree.map(lambda array: array[None], tree)
    barrier()
    return multihost_utils.process_allgather(tree)


class Vote:
    """Whether any process wants something, which all find out at the same call.

    A call's answer is to what was wanted one call before: nobody waits for a step that is running.
    """

    def __init__(self, mesh: Mesh):
        self._mesh = mesh
        self._last: jax.Array | None = None
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._any = jax.jit(lambda flags: flags.any(), out_shardings=everywhere)

    def __call__(self, wants: bool, *, at_once: bool = False) -> bool:
        """Whether any process wanted it by the last call; with `at_once` by this one."""
        if count() == 1:
            return wants
        here = np.full(jax.local_device_count(), wants)
        by_device = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
        flags = jax.make_array_from_process_local_data(by_device, here)
        last, self._last = self._last, self._any(flags)
        asked = self._last if at_once else last
        return asked is not None and bool(asked)


# How they end.


def _listen(job: _Job) -> None:
    """Hear at once that a process ends all."""
    while not job.is_ending.is_set():
        if word := _word_told(job, _POLL_MS):
            return _end_with(job, word)
    return None


def _watch(job: _Job) -> None:
    """Notice, within the heartbeat, that a process has died; JAX waits for all that live to ask."""
    everyone = list(range(job.count))
    while not job.is_ending.is_set():
        time.sleep(_POLL_MS / 1000)
        with suppress(jax.errors.JaxRuntimeError):
            job.gone |= set(everyone) - job.client.get_live_nodes(everyone).keys()
            if job.gone:
                # One that has ended all, and has left, isn't lost.
                return _end_with(job, _word_told(job, 1) or _gone(sorted(job.gone)))
    return None


def _word_told(job: _Job, within_ms: int) -> _Word | None:
    """What a process ends all with, if one does."""
    try:
        return _Word(**json.loads(job.client.blocking_key_value_get(_WORD, within_ms)))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            time.sleep(_POLL_MS / 1000)  # it passes, or JAX aborts: see `_speak_before_abort`
        return None


def _gone(indices: list[int]) -> _Word:
    names = " and ".join(map(str, indices))
    which = f"process {names} is gone" if len(indices) == 1 else f"processes {names} are gone"
    return _Word(f"vtl: {which}; the same commands go on from what is saved", 1)


def _speak_before_abort(leave: Callable[[], NoReturn]) -> None:
    """Have this process `leave` with a message when JAX aborts it, from a thread of its own.

    JAX does so where the first process is gone or was never there. Python's own signal handlers
    come too late for that.
    """
    global _abort_handler
    handler = _ABORT_HANDLER(lambda number: leave())
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
    _abort_handler = handler  # the one before may be called until here


_COLLECTIVES = re.compile("gloo|nccl", re.IGNORECASE)

_ABORT_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
_abort_handler: Any = None
"""It must last for as long as it may be called."""


def _aborted(job: _Job) -> _Word:
    """What it means that JAX aborts: the store is gone, which the first process holds."""
    if job.word:
        return job.word
    if is_first():
        return _Word("vtl: JAX has failed: see process_0.log in the run's directory", 1)
    job.gone.add(0)
    return _gone([0])


def _end_with(job: _Job, word: _Word) -> None:
    """Have the main thread stop as if by Ctrl-C, and end it if it doesn't."""
    with job.ending:
        if job.is_ending.is_set() or job.has_word.is_set():
            return
        job.word = word
        job.has_word.set()
        if not stops.is_stopping():
            # A shell's background job ignores Ctrl-C.
            heard = (n for n in stops.NUMBERS if signal.getsignal(n) is not signal.SIG_IGN)
            os.kill(os.getpid(), next(heard, signal.SIGTERM))
    time.sleep(_GRACE_S)
    _leave_now(job, word)


def _leave_now(job: _Job, word: _Word) -> NoReturn:
    # It is never released: one thread speaks. That may wait in JAX's C++, which waits for this one.
    job.last_words.acquire(timeout=_GRACE_S + 1)
    _tell_parted(job)
    console.end_lines()
    stops.leave(word.message, _last_stream(job), word.status)


def _last_stream(job: _Job) -> Any:
    """Where this process's last words go: to the terminal from the first that is left."""
    is_next = all(i in job.gone for i in range(job.index))
    if is_next and not is_first() and _terminal is not None:
        return os.fdopen(_terminal, "w", buffering=1)
    return sys.stderr


@contextmanager
def as_one() -> Iterator[None]:
    """Turn what one of many processes fails of into what all end with, in `last_words`.

    Raises:
        KeyboardInterrupt: another process has ended, which broke a collective of this one.
        UserError: this process failed; its traceback is printed.
    """
    try:
        yield
    except (UserError, stops.Interrupted, KeyboardInterrupt):
        _end()
        raise
    except Exception as error:
        if not _job:
            raise
        is_of_jax = isinstance(error, jax.errors.JaxRuntimeError)
        breaks = is_of_jax or _COLLECTIVES.search(str(error))  # some is a ValueError
        if breaks and _job.has_word.wait(_job.heartbeat_s + _GRACE_S):
            _end()
            raise KeyboardInterrupt from None
        _end()
        _print_traceback(_job)
        raise UserError(f"process {index()} failed: {reason_of(error)}") from error


def _end() -> None:
    """From here on nobody stops this process: it is about to end."""
    if _job:
        with _job.ending:
            _job.is_ending.set()


def _print_traceback(job: _Job) -> None:
    """Where somebody sees it: until a process has a log of its own, that is the terminal."""
    if is_first() or job.is_logging or _terminal is None:
        traceback.print_exc()
    else:
        with os.fdopen(os.dup(_terminal), "w") as terminal:
            traceback.print_exc(file=terminal)


def stop_others() -> None:
    """Have the other processes stop, as this one is about to."""
    if _job:
        _end()
        _tell(_job, _Word(STOPPED, stops.EXIT_STATUS))


def last_words(message: str, status: int) -> tuple[str, int]:
    """What to end this process with: what another has ended all with, or else this, told to all.

    Returns once the others, if this is the first, have heard it.
    """
    job = _job
    if not job:
        return message, status
    job.last_words.acquire()
    _end()
    if job.word is None and not _tell(job, _Word(message, status)):
        job.word = _word_told(job, _POLL_MS)
    _part(job)
    return job.word or _Word(message, status)


def finish(status: int = 0) -> None:
    """End this process, if it is one of many, once all are done."""
    job = _job
    if job:
        done = Round("done")
        done.tell(True)
        done.hear(range(job.count))
        job.is_ending.set()
        _part(job)
        stops.leave_quietly(
            status
        )  # Python's end would abort on the thread that waits in JAX's C++


def _tell(job: _Job, word: _Word) -> bool:
    """End all with a word; False if another process was quicker."""
    try:
        job.client.key_value_set(_WORD, json.dumps(word._asdict()))
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _tell_parted(job: _Job) -> None:
    if 0 in job.gone:  # and the store with it
        return
    with suppress(jax.errors.JaxRuntimeError):
        job.client.key_value_set(f"vtl/parted/{job.index}", "")


def _part(job: _Job) -> None:
    """The first process, which holds the store, leaves last."""
    if not is_first():
        _tell_parted(job)
        return
    end = time.monotonic() + _GRACE_S + 2  # the others have _GRACE_S
    with suppress(jax.errors.JaxRuntimeError):
        for i in set(range(1, job.count)) - job.gone:
            left_ms = max(1, round(1000 * (end - time.monotonic())))
            job.client.blocking_key_value_get(f"vtl/parted/{i}", left_ms)
        time.sleep(0.2)
