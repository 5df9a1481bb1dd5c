"""How far to train, tried on a part of the training split that is held out of it.

The trial is a run of its own in WORKDIR/held_out, so that it resumes like any other. Its
checkpoints go once it has its answer.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from vtl import identity, processes, schema
from vtl.console import say
from vtl.data.batches import Images
from vtl.data.duplicates import groups_of
from vtl.data.held_out import Rows, hold_out
from vtl.data.split import Split
from vtl.errors import Diverged, UserError
from vtl.finetuning import mixtures
from vtl.finetuning.job import Job, checkpoints_of, training_set_of
from vtl.run_directory import RunDirectory
from vtl.training import loop
from vtl.training.state import TrainState
from vtl.untrusted import read_npz

NAME = "held_out"

_FOUND = ("num_images", "num_steps", "steps", "maps", "losses", "best_step")
_MIXED = ("mixed_maps", "mixes", "best_mix")
"""What results.json holds, and with mixtures, too."""


class Parts(NamedTuple):
    """The rows that a trial trains on, those that it is scored on, and the plan of its training."""

    inside: np.ndarray
    outside: np.ndarray
    plan: loop.Plan


def parts_of(job: Job, images: Images, split: Split) -> Parts | None:
    """The parts of a split of images [N, H, W, 3]; None, with a reason, if a trial means nothing.

    Raises:
        UserError: the schedule doesn't fit so few photos.
    """
    if job.given_head is not None:
        say("held_out: the given head may know all of these photos, so all passes are trained")
        return None
    groups = groups_of(images, split)
    is_held_out = hold_out(split.ids, groups, job.config.held_out, job.config.seed)
    if not is_held_out.any():
        what = "of one group" if split.groups else "all alike"
        say(f"held_out: the {len(split)} photos are {what}, so all passes are trained")
        return None
    inside, outside = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    return Parts(inside, outside, job.plan(len(inside)))


def run(
    job: Job, images: Images, split: Split, parts: Parts, content: Mapping[str, Any], workdir: Path
) -> dict[str, Any]:
    """Train on the inside of a split of images [N, H, W, 3], score the outside after each pass.

    Returns:
        num_images outside; their mAP before training and after each pass, `maps` [K], and their
        loss, `losses` [K], after `steps` [K]; num_steps of all passes; and best_step, the first of
        the best of those that count (`mixtures.score`). With mixtures also the mAP of the best of
        each step and its weight, `mixed_maps` and `mixes` [K], and best_mix; it is these that
        best_step is by. Without a class that is outside there are no maps, and
        best_step is num_steps.

    Raises:
        Interrupted: a signal came, and the state was saved.
        UserError: the directory holds something else.
    """
    config = job.config.copy_and_resolve_references()
    with config.unlocked():
        config.task = NAME
    trial = RunDirectory(workdir / NAME, config)
    content = {**content, NAME: identity.array_sha256(parts.outside)}
    trial.compare(content)
    if trial.is_finished:
        trial.check_finished(lambda: content)
    else:
        say(
            f"how far to train is tried first: on {len(parts.inside)} of the {len(split)} photos, "
            f"scored on the other {len(parts.outside)}"
        )
        trial.begin(content)
        try:
            _train(job, images, split, parts, trial)
        except Diverged as error:
            logging.warning("how far to train: in the trial %s", error)
        _finish(job, trial, parts)
    if processes.is_first():
        shutil.rmtree(trial.path / "checkpoints", ignore_errors=True)
    found = trial.read_results()
    return {name: found[name] for name in (*_FOUND, *_MIXED) if name in found}


def _train(job: Job, images: Images, split: Split, parts: Parts, trial: RunDirectory) -> None:
    held_out, held_out_split = Rows(images, parts.outside), split.rows(parts.outside)

    def score(state: TrainState) -> dict[str, float]:
        before = mixtures.loss_before(trial)
        scores, logits = mixtures.score(job, start, state, held_out, held_out_split, before)
        trial.write_arrays(_logits_after(int(state.step)), {"logits": logits})
        return scores

    checkpoints = checkpoints_of(trial, best_by=None)
    training_set = training_set_of(
        Rows(images, parts.inside), split.rows(parts.inside), job.config.data.difficult
    )
    start = job.start(training_set)
    job.train(start, training_set, parts.plan, trial, checkpoints, score)
    checkpoints.close()


def logits(workdir: Path, step: int, shape: tuple[int, int]) -> np.ndarray | None:
    """The logits [N, C] of the held-out photos after `step` steps; None if they aren't there.

    They are of the best mixture of that step.
    A trial of an earlier version wrote none; a warning says so of what is damaged.
    """
    found = _read_logits(workdir, step, shape) if processes.is_first() else None
    if not processes.by_first(lambda: found is not None)():
        return None
    return processes.broadcast(np.zeros(shape, np.float32) if found is None else found)


def _read_logits(workdir: Path, step: int, shape: tuple[int, int]) -> np.ndarray | None:
    path = workdir / NAME / f"{_logits_after(step)}.npz"
    if not os.path.lexists(path):
        return None
    try:
        with schema.of_file(path):
            return schema.finite(read_npz(path, inside=path.parent), "logits", shape)
    except UserError as error:
        logging.warning("%s: thresholds are chosen without it", error)
        return None


def _logits_after(step: int) -> str:
    return f"logits_{step}"


def _finish(job: Job, trial: RunDirectory, parts: Parts) -> None:
    scored = [line for line in trial.read_metrics() if mixtures.VAL_MAP in line]
    last = {"step": parts.plan.num_steps}
    best = max(scored, key=lambda line: (mixtures.best_map(line), -line["step"]), default=last)
    found = {
        "num_images": len(parts.outside),
        "num_steps": parts.plan.num_steps,
        "steps": [line["step"] for line in scored],
        "maps": [line[mixtures.VAL_MAP] for line in scored],
        "losses": [line[mixtures.VAL_LOSS] for line in scored if mixtures.VAL_LOSS in line],
        "best_step": best["step"],
    }
    if job.config.mix_with_start:
        found |= {
            "mixed_maps": [line.get(mixtures.BEST, line[mixtures.VAL_MAP]) for line in scored],
            "mixes": [mixtures.mix_of(line) for line in scored],
            "best_mix": mixtures.mix_of(best),
        }
    trial.write_results(found)
