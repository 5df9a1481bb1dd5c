"""How far to train, tried on a part of the training split that is held out of it.

The trial is a run of its own in WORKDIR/held_out, so that it resumes like any other. Its
checkpoints go once it has its answer.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vtl import identity
from vtl.console import say
from vtl.data.batches import Images
from vtl.data.held_out import Rows, hold_out
from vtl.data.splits import Split
from vtl.evaluation.outcome import MAP_PROTOCOL
from vtl.finetuning.job import Job, checkpoints_of, training_set_of
from vtl.run_directory import RunDirectory
from vtl.training.state import TrainState

NAME = "held_out"

_SCORE = f"val_map_{MAP_PROTOCOL}"


def run(
    job: Job, images: Images, split: Split, content: Mapping[str, Any], workdir: Path
) -> dict[str, Any]:
    """Train on most of a split's images [N, H, W, 3], score the rest before and after each pass.

    Returns:
        num_images that were held out; their mAP by `steps` [K] as `maps` [K], None where no class
        has a positive; num_steps of the trial; best_step, the first of the best ones, or num_steps
        if there is no mAP.

    Raises:
        Interrupted: a signal came, and the state was saved.
        UserError: nothing can be held out.
    """
    config = job.config.copy_and_resolve_references()
    with config.unlocked():
        config.task = NAME
    trial = RunDirectory(workdir / NAME, config)
    is_held_out = hold_out(images, job.config.held_out, job.config.seed)
    inside, outside = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    content = {**content, NAME: identity.array_sha256(outside)}
    trial.compare(content)
    if not trial.is_finished:
        say(
            f"how far to train is tried first: on {len(inside)} of the {len(split)} photos, "
            f"scored on the other {len(outside)}"
        )
        trial.begin(content)
        _train(job, images, split, inside, outside, trial)
        _finish(trial, len(outside), job.plan(len(inside)).num_steps)
    shutil.rmtree(trial.path / "checkpoints", ignore_errors=True)
    return {name: trial.read_results()[name] for name in _FOUND}


_FOUND = ("num_images", "num_steps", "steps", "maps", "best_step")


def _train(
    job: Job,
    images: Images,
    split: Split,
    inside: np.ndarray,
    outside: np.ndarray,
    trial: RunDirectory,
) -> None:
    held_out, held_out_split = Rows(images, outside), split.rows(outside)

    def score(state: TrainState) -> dict[str, float]:
        mean_ap = job.mean_ap(state.variables, held_out, held_out_split)
        return {} if mean_ap is None else {_SCORE: mean_ap}

    checkpoints = checkpoints_of(trial, best_by=None)
    training_set = training_set_of(
        Rows(images, inside), split.rows(inside), job.config.data.difficult
    )
    job.train(training_set, job.plan(len(inside)), trial, checkpoints, score)
    checkpoints.close()


def _finish(trial: RunDirectory, num_held_out: int, num_steps: int) -> None:
    scored = [line for line in trial.read_metrics() if _SCORE in line]
    best = max(scored, key=lambda line: (line[_SCORE], -line["step"]), default={"step": num_steps})
    trial.write_results(
        {
            "num_images": num_held_out,
            "num_steps": num_steps,
            "steps": [line["step"] for line in scored],
            "maps": [line[_SCORE] for line in scored],
            "best_step": best["step"],
        }
    )
