"""Exercise 4: photos -> trained network -> mAP."""

import functools
import itertools
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vtl.data import prepare
from vtl.data.batches import Images
from vtl.data.split import Split, describe_splits
from vtl.data.splits import name_of, of_config
from vtl.evaluation import gallery, outcome
from vtl.evaluation.outcome import MAP_PROTOCOL
from vtl.finetuning import tuning, unseen
from vtl.finetuning.job import Job
from vtl.finetuning.setup import check_options, content_by_path, set_up
from vtl.models import HEAD
from vtl.models.architecture import in_results
from vtl.run_directory import RunDirectory, begun_with
from vtl.training import augment, steps
from vtl.weights import network


def run(config: ConfigDict, workdir: Path) -> None:
    """Fine-tune and leave the outcome in `workdir`; a second call resumes.

    Raises:
        UserError: data, weights or an option is invalid, or `workdir` holds something else.
    """
    check_options(config)
    prepare.settle_decode(config.data, begun_with(workdir, "data.decode"))
    run_directory = RunDirectory(workdir, config)
    now = functools.cache(lambda: of_config(config.data))
    if outcome.was_finished(run_directory, lambda: content_by_path(config, now), splits=now):
        return
    seconds = {"start": time.perf_counter()}
    job, prepared, training_set, content = set_up(config, run_directory)
    splits, photos, train = prepared.splits, prepared.photos, prepared.splits["train"]
    seconds["data"] = time.perf_counter()

    parts = tuning.parts_of(job, splits, photos["train"])
    run_directory.begin(content)
    prepared.write(workdir)
    tuned = tuning.tune(
        job, splits, photos, training_set, parts, content, run_directory, scores_start=True
    )
    seconds |= tuned.ended

    variables, net = tuned.variables, job.net
    logits = {role: job.logits(variables, photos[role]) for role in splits}
    one_label_each = job.objective.has_one_label_each
    decisions, chosen = unseen.decide(
        job,
        splits,
        logits,
        training_set,
        parts,
        tuned.tried,
        is_start=tuned.step == 0,
        workdir=workdir,
    )
    quantities = outcome.score_splits(
        run_directory,
        logits,
        splits,
        train.classes,
        config.seed,
        one_label_each=one_label_each,
        decisions=decisions,
    )
    if config.gallery_photos:
        role = outcome.headline_split(splits)
        arrays = _gallery(job, splits[role], logits[role], photos[role], variables)
        if arrays:
            run_directory.write_arrays(f"gallery_{role}", arrays)
    network.save(
        workdir / "model.safetensors",
        variables,
        net,
        train.classes,
        multi_label=not one_label_each,
        decisions=decisions,
    )
    seconds["evaluate"] = time.perf_counter()
    run_directory.write_results(
        {
            "classes": list(train.classes),
            **quantities,
            "decisions": chosen,
            "chosen_step": tuned.step,
            **_mixed(tuned, config),
            "resumed_from": tuned.resumed_from,
            "start": _start(run_directory) if config.num_epochs else None,
            "held_out": tuned.tried,
            "trainable_parameters": job.num_trainable,
            "images_per_second": run_directory.last_metric("images_per_second"),
            "seconds": _phases(seconds),
            "network": in_results(net.architecture),
            "weights": net.weights.record(net.preprocessing) if net.weights else None,
            "data": describe_splits(name_of(config.data), splits) | prepared.record(),
        }
    )
    outcome.show_outcome(run_directory)


def _mixed(tuned: tuning.Tuned, config: ConfigDict) -> dict[str, Any]:
    if not config.mix_with_start:
        return {}
    return {"chosen_mix": tuned.mix, "trained": tuned.trained}


def _start(run_directory: RunDirectory) -> dict[str, float]:
    """The mAP of each split that was scored before the first step; metrics.jsonl has it."""
    first = next((line for line in run_directory.read_metrics() if line["step"] == 0), {})
    names = {role: f"{role}_map_{MAP_PROTOCOL}" for role in ("val", "test")}
    return {role: first[name] for role, name in names.items() if name in first}


def _gallery(
    job: Job, split: Split, logits: np.ndarray, photos: Images, variables: Any
) -> dict[str, np.ndarray]:
    """What gallery_SPLIT.npz holds: the chosen photos, and each class's activation maps."""
    net = job.net
    labels = np.asarray(split.labels)
    # Neither a hit nor a false alarm where it is not known what is there.
    is_no_alarm = split.difficult | (1 - split.label_mask)
    choices = gallery.choose(
        logits, labels * split.label_mask, is_no_alarm, job.config.gallery_photos
    )
    if not choices:  # nothing is known
        return {}
    rows = gallery.chosen_rows(choices)
    known = split.label_mask[rows]
    size = net.preprocessing.crop_size
    crops = np.asarray(augment.centre_crop(jnp.asarray(photos[rows]), size))
    map_step = steps.make_map_step(net.model, net.preprocessing, job.mesh)
    (maps,) = job.predict(map_step, variables, crops)
    return gallery.pack(choices, crops, maps, np.asarray(variables["params"][HEAD]["bias"])) | {
        "ids": np.array(split.ids)[rows],
        "scores": outcome.scores_of(logits[rows], one_label_each=job.objective.has_one_label_each),
        "labels": labels[rows],
        "classes": np.array(split.classes),
        **({} if known.all() else {"label_mask": known}),
    }


def _phases(marks: dict[str, float]) -> dict[str, float]:
    """The seconds between successive marks, under the later one's name, and in total."""
    names = list(marks)
    phases = {later: marks[later] - marks[earlier] for earlier, later in itertools.pairwise(names)}
    return phases | {"total": marks[names[-1]] - marks[names[0]]}
