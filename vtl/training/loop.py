"""The one host loop for photos."""

import dataclasses
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from vtl.data import batches
from vtl.errors import Diverged
from vtl.records import Progress, RunDirectory, say
from vtl.training import memory
from vtl.training.checkpoint import Checkpoints
from vtl.training.state import TrainState, by_batch, replicated
from vtl.training.steps import TrainStep


class Interrupted(Exception):
    """SIGTERM or Ctrl-C came; the state is saved and the same command goes on from it."""


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """What a training batch is drawn from: images [N, H, W, 3] uint8; labels, known [N, C]."""

    images: batches.Images
    labels: np.ndarray
    known: np.ndarray


def count_steps(num_epochs: float, num_images: int, batch_size: int) -> int:
    """The steps that come nearest to `num_epochs` passes, at least one."""
    return max(1, round(num_epochs * num_images / batch_size))


def start(
    first: Callable[[], TrainState],
    shapes: TrainState,
    *,
    num_steps: int,
    mesh: Mesh,
    run_directory: RunDirectory,
    checkpoints: Checkpoints,
) -> tuple[TrainState, int | None]:
    """The state of the latest checkpoint, of `shapes`, and its step; `first()` where there is none.

    metrics.jsonl is cut to that step.
    """
    resumed_from = checkpoints.latest()
    if resumed_from is None:
        train_state = jax.device_put(first(), replicated(mesh))
    else:
        say(f"going on from step {resumed_from} of {num_steps}")
        train_state = checkpoints.restore(resumed_from, shapes, replicated(mesh))
    run_directory.cut_metrics(resumed_from or -1)  # the start is scored again
    return train_state, resumed_from


def run(
    train_state: TrainState,
    train_step: TrainStep,
    training_set: TrainingSet,
    *,
    num_steps: int,
    batch_size: int,
    log_every_steps: int,
    seed: int,
    schedule: optax.Schedule,
    mesh: Mesh,
    run_directory: RunDirectory,
    checkpoints: Checkpoints,
    evaluate: Callable[[TrainState], dict[str, float]],
    epoch_size: int | None = None,
) -> TrainState:
    """Train from `train_state.step` to `num_steps`; score and save at 0 and at every epoch's end.

    `evaluate` returns the scores that are recorded, and saved with the state, at an epoch's end. An
    epoch is one pass over the images, or `epoch_size` of them.

    Raises:
        Interrupted: a signal came, and the state was saved.
        Diverged: the loss is not finite; the last good checkpoint stays.
    """
    memory.keep_freed_memory()
    num_images = len(training_set.images)
    epoch_size = epoch_size or num_images
    progress = Progress(int(train_state.step), num_steps, batch_size, epoch_size)
    learning_rates = np.broadcast_to(schedule(np.arange(num_steps)), num_steps)
    pending: list[dict[str, jax.Array]] = []

    def load(step: int) -> dict[str, jax.Array]:
        rows = batches.train_indices(step, num_images=num_images, batch_size=batch_size, seed=seed)
        arrays = vars(training_set).items()
        return {name: batches.put(array[rows], by_batch(mesh)) for name, array in arrays}

    def flush(done: int) -> None:
        first = done - len(pending) + 1
        lines = [
            {
                "step": step,
                "epoch": step * batch_size / epoch_size,
                **{name: float(value) for name, value in metrics.items()},
                "learning_rate": float(learning_rates[step - 1]),
            }
            for step, metrics in enumerate(pending, start=first)
        ]
        pending.clear()
        _check_finite(lines, checkpoints)
        run_directory.append_metrics(lines)
        progress.show(lines)

    def score_and_save(done: int) -> None:
        scores = evaluate(train_state)
        line = {"step": done, "epoch": done * batch_size / epoch_size, **scores, **progress.speed()}
        run_directory.append_metrics([line])
        progress.end_epoch(scores)
        checkpoints.save(train_state, scores)

    with _signals() as interrupted:
        first = int(train_state.step)
        if first == 0:
            score_and_save(0)
        loaded = batches.prefetched(load, range(first, num_steps))
        for done, batch in enumerate(loaded, start=first + 1):
            train_state, metrics = train_step(train_state, batch)
            pending.append(metrics)
            ends_epoch = done == num_steps or (done * batch_size) % epoch_size < batch_size
            if ends_epoch or done % log_every_steps == 0 or interrupted.is_set():
                flush(done)
            if ends_epoch:
                score_and_save(done)
            if interrupted.is_set() and done < num_steps:
                checkpoints.save(train_state)
                checkpoints.wait()
                raise Interrupted(f"stopped after step {done}, which is saved")
    checkpoints.wait()
    return train_state


def _check_finite(lines: list[dict], checkpoints: Checkpoints) -> None:
    for line in lines:
        if not math.isfinite(line["loss"]):
            checkpoints.wait()
            raise Diverged(
                f"the loss is {line['loss']} at step {line['step']}: lower optim.learning_rate or "
                f"set optim.clip_norm; checkpoint {checkpoints.latest()} is the last good one"
            )


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set the event on SIGTERM or Ctrl-C; a second one acts as it did before."""
    event = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: object) -> None:
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, handle)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
