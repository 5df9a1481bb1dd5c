"""The one host loop for photos."""

import dataclasses
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vtl import processes, stops
from vtl.console import Progress, say
from vtl.data import batches
from vtl.data.split import Flags
from vtl.errors import Diverged
from vtl.run_directory import RunDirectory
from vtl.stops import Interrupted
from vtl.training import memory, optim
from vtl.training.checkpoint import Checkpoints
from vtl.training.state import TrainState, by_batch, replicate
from vtl.training.steps import COUNTED, TrainStep


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """The training data: images [N, H, W, 3] uint8; labels, label_mask [N, C]."""

    images: batches.Images
    labels: Flags
    label_mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train, and how often to log, score and save.

    Attributes:
        epoch_size: how many images are trained on between two scorings and checkpoints.
        seed: decides the order of the images.
        learning_rate: the rate of each step, for metrics.jsonl.
    """

    num_steps: int
    batch_size: int
    epoch_size: int
    log_every_steps: int
    seed: int
    learning_rate: optax.Schedule
    mesh: Mesh


def make_plan(
    config: ConfigDict,
    *,
    num_images: int,
    num_epochs: float,
    mesh: Mesh,
    epoch_size: int | None = None,
) -> Plan:
    """The plan for `num_epochs` passes with a config's batch_size, log_every_steps, seed, optim."""
    num_steps = count_steps(num_epochs, num_images, config.batch_size)
    return Plan(
        num_steps=num_steps,
        batch_size=config.batch_size,
        epoch_size=epoch_size or num_images,
        log_every_steps=config.log_every_steps,
        seed=config.seed,
        learning_rate=optim.make_schedule(config.optim, num_steps),
        mesh=mesh,
    )


def count_steps(num_epochs: float, num_images: int, batch_size: int) -> int:
    """The steps that come nearest to `num_epochs` passes: at least one, but none for no pass."""
    return max(1, round(num_epochs * num_images / batch_size)) if num_epochs else 0


def start(
    first: Callable[[], TrainState],
    shapes: TrainState,
    plan: Plan,
    run_directory: RunDirectory,
    checkpoints: Checkpoints,
) -> tuple[TrainState, int | None]:
    """The latest checkpoint's state and its step; `first()` and None if there is no checkpoint.

    The state has the given `shapes`. Cuts metrics.jsonl to that step.
    """
    resumed_from = checkpoints.latest()
    if resumed_from is None:
        train_state = replicate(first(), plan.mesh)
    else:
        say(f"going on from step {resumed_from} of {plan.num_steps}")
        train_state = checkpoints.restore(resumed_from, shapes, plan.mesh)
    run_directory.cut_metrics(resumed_from or -1)  # step 0 is scored again
    return train_state, resumed_from


def run(
    train_state: TrainState,
    train_step: TrainStep,
    training_set: TrainingSet,
    plan: Plan,
    run_directory: RunDirectory,
    checkpoints: Checkpoints,
    evaluate: Callable[[TrainState], dict[str, float]],
) -> TrainState:
    """Train from `train_state.step` to the plan's end; score and save at 0 and at each epoch's end.

    `evaluate` returns the scores to record and to save with the state.

    Raises:
        Interrupted: a signal came, and the state was saved.
        Diverged: the loss is not finite; the last good checkpoint stays.
    """
    memory.keep_freed_memory()
    num_images, batch_size = len(training_set.images), plan.batch_size
    progress = Progress(int(train_state.step), plan.num_steps, batch_size, plan.epoch_size)
    learning_rates = np.broadcast_to(
        jax.jit(plan.learning_rate)(np.arange(plan.num_steps)), plan.num_steps
    )
    pending: list[dict[str, jax.Array]] = []
    stop_is_agreed = processes.Vote(plan.mesh)

    def load(step: int) -> dict[str, jax.Array]:
        rows = batches.train_indices(
            step, num_images=num_images, batch_size=batch_size, seed=plan.seed
        )
        arrays = vars(training_set).items()
        return {name: batches.place(array, rows, by_batch(plan.mesh)) for name, array in arrays}

    def flush(done: int) -> None:
        first = done - len(pending) + 1
        lines = [
            {
                "step": step,
                "epoch": step * batch_size / plan.epoch_size,
                **{name: float(metrics[name]) for name in metrics if name != COUNTED},
                "learning_rate": float(learning_rates[step - 1]),
            }
            for step, metrics in enumerate(pending, start=first)
        ]
        _check_finite(lines, checkpoints)
        lines = [
            line if metrics[COUNTED] else {k: line[k] for k in ("step", "epoch", "learning_rate")}
            for line, metrics in zip(lines, pending, strict=True)
        ]
        pending.clear()
        run_directory.append_metrics(lines)
        progress.show(lines)

    def score_and_save(done: int) -> None:
        scores = evaluate(train_state)
        line = {
            "step": done,
            "epoch": done * batch_size / plan.epoch_size,
            **scores,
            **progress.speed(),
        }
        run_directory.append_metrics([line])
        progress.end_epoch(scores)
        checkpoints.save(train_state, scores)

    with _signals() as interrupted:
        first, is_stopped = int(train_state.step), False
        if first == 0:
            score_and_save(0)
        loaded = batches.prefetched(load, range(first, plan.num_steps))
        for done, batch in enumerate(loaded, start=first + 1):
            train_state, metrics = train_step(train_state, batch)
            pending.append(metrics)
            ends_epoch = (
                done == plan.num_steps or (done * batch_size) % plan.epoch_size < batch_size
            )
            if ends_epoch or done % plan.log_every_steps == 0:
                flush(done)
            if ends_epoch:
                score_and_save(done)
            is_stopped = stop_is_agreed(interrupted.is_set(), at_once=ends_epoch)
            if is_stopped:
                break
        # Without a step too: evaluating takes long.
        is_stopped = is_stopped or stop_is_agreed(interrupted.is_set(), at_once=True)
        if is_stopped:  # not every process has had its signal yet, and none may cut off the save
            if pending:
                flush(int(train_state.step))
            checkpoints.save(train_state)
            checkpoints.wait()
            processes.barrier()
    if is_stopped:
        raise Interrupted(f"stopped after step {int(train_state.step)}, which is saved")
    checkpoints.wait()
    return train_state


def _check_finite(lines: list[dict[str, Any]], checkpoints: Checkpoints) -> None:
    for line in lines:
        if not math.isfinite(line["loss"]):
            checkpoints.wait()
            raise Diverged(
                f"the loss is {line['loss']} at step {line['step']}: lower optim.learning_rate or "
                f"set optim.clip_norm; checkpoint {checkpoints.latest()} is the last good one"
            )


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set the event on the first signal that stops a run; a second one acts as usual."""
    event = threading.Event()
    before = {number: signal.getsignal(number) for number in stops.NUMBERS}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}

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
