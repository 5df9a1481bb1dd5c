"""A training as far as it does good: the trial on held-out photos, the training, what is kept."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from vtl.data.batches import Images
from vtl.data.split import Split
from vtl.evaluation.outcome import MAP_PROTOCOL
from vtl.finetuning import mixtures, trial
from vtl.finetuning.job import Job, checkpoints_of
from vtl.run_directory import RunDirectory
from vtl.training.checkpoint import Checkpoints
from vtl.training.loop import TrainingSet
from vtl.training.state import TrainState


class Tuned(NamedTuple):
    """What a training gave.

    Attributes:
        variables: the network's, of the chosen `step` and, of mixtures, the chosen `mix`.
        trained: of a mixture the mAP of what was trained, by role.
        tried: what the trial found, if there was one.
        ended: when the trial and the training ended, by `time.perf_counter`.
    """

    variables: Any
    step: int
    mix: float
    trained: dict[str, float]
    tried: dict[str, Any] | None
    resumed_from: int | None
    ended: dict[str, float]


def parts_of(job: Job, splits: Mapping[str, Split], images: Images) -> trial.Parts | None:
    """The parts of train's images for a trial; None if the config or the data asks for none.

    Raises:
        UserError: the schedule doesn't fit so few photos.
    """
    config, train = job.config, splits["train"]
    trains = job.plan(len(train)).num_steps > 0  # an unusable schedule is refused here
    if not (trains and config.held_out and config.keep == "best" and "val" not in splits):
        return None
    return trial.parts_of(job, images, train)


def tune(
    job: Job,
    splits: Mapping[str, Split],
    photos: Mapping[str, Images],
    training_set: TrainingSet,
    parts: trial.Parts | None,
    content: Mapping[str, Any],
    run_directory: RunDirectory,
    *,
    scores_start: bool,
) -> Tuned:
    """Train in a directory whose run has begun; a second call resumes.

    `scores_start` says whether test is scored before the first step as well.

    Raises:
        Interrupted: a signal came, and the state was saved.
        UserError: the training diverged, or the directory holds another trial.
    """
    config, plan, tried = job.config, job.plan(len(splits["train"])), None
    if parts:
        tried = trial.run(job, photos["train"], splits["train"], parts, content, run_directory.path)
        share = tried["best_step"] / tried["num_steps"]
        plan = dataclasses.replace(plan, num_steps=round(share * plan.num_steps))
    ended = {"held_out": time.perf_counter()}

    checkpoints = checkpoints_of(
        run_directory, mixtures.BEST if "val" in splits and config.keep == "best" else None
    )
    scores_start = scores_start and job.starts_fitted and plan.num_steps > 0
    start = job.start(training_set)
    score_epoch = functools.partial(
        _score_epoch, job, splits, photos, scores_start, start, run_directory
    )
    state, resumed_from = job.train(
        start, training_set, plan, run_directory, checkpoints, score_epoch
    )
    ended["train"] = time.perf_counter()

    state = _chosen(checkpoints, state, job.mesh)
    step, variables, mix, trained = int(state.step), state.variables, mixtures.TRAINED, {}
    if config.mix_with_start and step:
        mix = _chosen_mix(run_directory, splits, tried, step)
    if mix != mixtures.TRAINED:
        trained = _maps(job, splits, photos, ("val", "test"), variables)
        variables = mixtures.mixture(start(), variables, mix, job.mesh)
    return Tuned(variables, step, mix, trained, tried, resumed_from, ended)


def _score_epoch(
    job: Job,
    splits: Mapping[str, Split],
    photos: Mapping[str, Images],
    scores_start: bool,
    start: Callable[[], Any],
    run_directory: RunDirectory,
    state: TrainState,
) -> dict[str, float]:
    """The scores of the val split and, if the config asks for it or it is the start's, of test."""
    scores_test = job.config.test_every_epoch or (scores_start and int(state.step) == 0)
    scores: dict[str, float] = {}
    if "val" in splits:
        before = mixtures.loss_before(run_directory)
        scores, _ = mixtures.score(job, start, state, photos["val"], splits["val"], before)
    if scores_test:
        on_test = _maps(job, splits, photos, ("test",), state.variables)
        scores |= {f"{role}_map_{MAP_PROTOCOL}": mean_ap for role, mean_ap in on_test.items()}
    return scores


def _maps(
    job: Job,
    splits: Mapping[str, Split],
    photos: Mapping[str, Images],
    roles: Sequence[str],
    variables: Any,
) -> dict[str, float]:
    """The mAP of each of the roles that is a split, and has a class with a positive."""
    there = [role for role in roles if role in splits]
    maps = {role: job.mean_ap(variables, photos[role], splits[role]) for role in there}
    return {role: mean_ap for role, mean_ap in maps.items() if mean_ap is not None}


def _chosen_mix(
    run_directory: RunDirectory,
    splits: Mapping[str, Split],
    tried: Mapping[str, Any] | None,
    step: int,
) -> float:
    """The weight of the trained state in the best mixture, by val or by the trial's photos."""
    if "val" in splits:
        return mixtures.chosen_on_val(run_directory, step)
    return (tried or {}).get("best_mix", mixtures.TRAINED)


def _chosen(checkpoints: Checkpoints, last: TrainState, mesh: Mesh) -> TrainState:
    """The best state by the val split, or the last one if there is no val split."""
    chosen, best = last, checkpoints.best()
    if best is not None and best != int(last.step):
        chosen = checkpoints.restore(best, last, mesh)
    checkpoints.close()
    return chosen
