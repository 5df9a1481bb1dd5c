"""Which scores thresholds and calibration are chosen on: never those of photos trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vtl.data.duplicates import groups_of
from vtl.data.split import Split
from vtl.decisions import Decisions
from vtl.evaluation import thresholds
from vtl.evaluation.outcome import counted_labels
from vtl.evaluation.thresholds import Unseen
from vtl.finetuning import trial
from vtl.finetuning.job import Job
from vtl.training import fit_head
from vtl.training.loop import TrainingSet


def decide(
    job: Job,
    splits: Mapping[str, Split],
    logits: Mapping[str, np.ndarray],
    training_set: TrainingSet,
    parts: trial.Parts | None,
    tried: Mapping[str, Any] | None,
    *,
    is_start: bool,
    workdir: Path,
) -> tuple[Decisions | None, dict[str, Any] | None]:
    """`thresholds.decide` by scores of photos that the outcome was not trained on.

    They are as near to the outcome's own as there are: those of val; else, of an outcome that is
    the fitted start, those of train out of fold; else those of the trial's held-out photos after as
    many passes, mixed alike; else those of the start that the training began with. There are none
    where no head was fitted, nor a trial made.
    """
    train = splits["train"]
    if "val" in splits:
        found: Unseen | None = _of(
            splits["val"], logits["val"], f"{len(splits['val'])} photos of val"
        )
    else:
        found = _in_train(job, train, training_set, parts, tried, is_start, workdir)
    return thresholds.decide(
        found,
        train.classes,
        job.config.thresholds,
        one_label_each=job.objective.has_one_label_each,
        seed=job.config.seed,
    )


def _in_train(
    job: Job,
    train: Split,
    training_set: TrainingSet,
    parts: trial.Parts | None,
    tried: Mapping[str, Any] | None,
    is_start: bool,
    workdir: Path,
) -> Unseen | None:
    groups, can_fold = np.zeros(0, int), job.given_head is None and job.config.head == "probe"
    if can_fold and (is_start or not tried):
        groups = groups_of(training_set.images, train)
        can_fold = len(np.unique(groups)) >= 2 * fit_head.NUM_FOLDS
    if parts and tried and not (is_start and can_fold):
        after = trial.logits(workdir, tried["best_step"], (len(parts.outside), len(train.classes)))
        if after is not None:
            words = f"{len(parts.outside)} photos held out of train"
            return _of(train.rows(parts.outside), after, words)
    if not len(groups) or not can_fold:
        return None
    words = f"{len(train)} photos of train, out of fold"
    if not is_start:
        words += ", by the head that training started from"
    return _of(train, job.out_of_fold(training_set, groups), words)


def _of(split: Split, logits: np.ndarray, in_words: str) -> Unseen:
    return Unseen(logits, np.asarray(split.labels), counted_labels(split), in_words)
