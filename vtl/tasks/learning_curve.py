"""More labels or fine-tuning? Both are measured at shares of the labels, and a law is fitted."""

import csv
import functools
import io
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from vtl import processes, schema
from vtl.console import format_seconds, say
from vtl.data import prepare
from vtl.data.duplicates import groups_of
from vtl.data.split import Split, describe_splits
from vtl.data.splits import name_of, of_config
from vtl.errors import UserError
from vtl.evaluation import outcome
from vtl.finetuning import tuning
from vtl.finetuning.job import mean_ap_of
from vtl.finetuning.setup import SetUp, check_options, content_by_path, set_up, subset
from vtl.learning_curve import conclusion, curve, subsets
from vtl.models.architecture import in_results
from vtl.run_directory import RunDirectory, begun_with
from vtl.untrusted import printable, read_npz

POINT = "learning_curve_point"
"""The task of a fine-tuning's own run directory."""

LEAST_LABELLED = 10
"""Photos of a subset: of fewer no share is measured."""

Drawn = list[list[np.ndarray]]
"""By share and draw: the rows of train, or logits on test. All photos are one draw."""


def run(config: ConfigDict, workdir: Path) -> None:
    """Measure all points and leave the outcome in `workdir`; a second call resumes.

    The probes are written together. Each fine-tuning is a run in WORKDIR/fine_tuned, whose
    checkpoints go when it ends.

    Raises:
        UserError: data, weights or an option is invalid, or `workdir` holds something else.
    """
    _check_options(config)
    prepare.settle_decode(config.data, begun_with(workdir, "data.decode"))
    run_directory = RunDirectory(workdir, config)
    now = functools.cache(lambda: of_config(config.data))
    content = functools.partial(content_by_path, config, now)
    if outcome.was_finished(run_directory, content, _format_outcome, now):
        return
    whole = set_up(config, run_directory)
    splits, net = whole.prepared.splits, whole.job.net
    train, test = splits["train"], splits.get("test")
    if test is None:
        raise UserError("a learning curve is measured on test: name data.test_split")
    shares = _shares(config, len(train))
    if config.finetune:
        whole.job.plan(round(shares[0] * len(train)))  # an unusable schedule is refused here
    run_directory.begin(whole.content)
    whole.prepared.write(workdir)
    for role, split in splits.items():
        run_directory.write_labels(role, split)
    drawn = _draw(whole, shares)
    run_directory.write_table("subsets.csv", _table(train, drawn, shares))

    logits, seconds = {}, {}
    logits["probe"], seconds["probe"] = _probes(whole, drawn, shares, run_directory)
    if config.finetune:
        logits["fine_tuned"], seconds["fine_tuned"] = _fine_tuned(whole, drawn, shares, workdir)
    labels = np.asarray(test.labels)
    measured = {
        name: curve.score(its, labels, test.label_mask, config.seed) for name, its in logits.items()
    }
    found = curve.conclude(shares, len(train), measured, config.seed)
    for name, its in seconds.items():
        found[name]["seconds"] = its
    run_directory.write_results(
        {
            "classes": list(train.classes),
            "num_images": {role: len(split) for role, split in splits.items()},
            "curve": {
                "protocol": outcome.MAP_PROTOCOL,
                "fractions": list(shares),
                "draws": len(drawn[0]),
                "photos": [round(float(np.mean([len(rows) for rows in its]))) for its in drawn],
                "num_test": len(test),
                "missing": _missing(train, drawn, shares),
                **found,
            },
            "network": in_results(net.architecture),
            "weights": net.weights.record(net.preprocessing) if net.weights else None,
            "data": describe_splits(name_of(config.data), splits) | whole.prepared.record(),
        }
    )
    say()
    say(_format_outcome(run_directory, run_directory.read_results()))


def _format_outcome(run_directory: RunDirectory, results: dict[str, Any]) -> str:
    return "\n".join([*conclusion.lines(results["curve"]), *outcome.where_it_is(run_directory)])


def _check_options(config: ConfigDict) -> None:
    check_options(config)
    if config.head != "probe" or config.head_from:
        raise UserError(
            "a learning curve's probe is the head that head=probe fits to each subset: leave head "
            "and head_from as they are"
        )
    if len(set(config.fractions)) < 2 or 1.0 not in config.fractions:
        raise UserError(
            f"fractions must be two or more, 1.0 among them, got {tuple(config.fractions)}"
        )
    if config.finetune and not config.num_epochs:
        raise UserError(
            "finetune=True measures a training, and num_epochs is 0: give it some, or choose "
            "finetune=False"
        )


def _shares(config: ConfigDict, num_photos: int) -> list[float]:
    """The rising fractions of so many photos, but for those of too few."""
    shares = sorted({float(share) for share in config.fractions})
    kept = [x for x in shares if round(x * num_photos) >= LEAST_LABELLED or x == 1]
    if len(kept) < len(shares):
        few = ", ".join(f"{100 * share:g} %" for share in shares if share not in kept)
        logging.warning("%s of %d photos are fewer than %d", few, num_photos, LEAST_LABELLED)
    if len(kept) < 2:
        raise UserError(f"{num_photos} photos of train are too few for a learning curve")
    return kept


def _draw(whole: SetUp, shares: Sequence[float]) -> Drawn:
    """The rows of each share's draws; what is nearly the same or of one group is in one subset."""
    train, config = whole.prepared.splits["train"], whole.job.config
    groups = groups_of(whole.prepared.photos["train"], train)
    positives = np.asarray(train.labels) * train.label_mask
    by_draw = [
        subsets.nested(train.ids, groups, positives, shares, config.seed + draw)
        for draw in range(config.draws)
    ]
    by_share = [list(rows) for rows in zip(*by_draw, strict=True)]
    return [*by_share[:-1], by_share[-1][:1]]


def _table(train: Split, drawn: Drawn, shares: Sequence[float]) -> str:
    """A row a photo: the least share of each draw that has it."""
    least = np.ones((len(train), len(drawn[0])))
    for share, of_share in reversed(list(zip(shares[:-1], drawn[:-1], strict=True))):
        for draw, rows in enumerate(of_share):
            least[rows, draw] = share
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["photo", *(f"draw_{draw}" for draw in range(least.shape[1]))])
    for photo_id, of_photo in zip(train.ids, least, strict=True):
        table.writerow([photo_id, *(f"{share:g}" for share in of_photo)])
    return text.getvalue()


def _missing(train: Split, drawn: Drawn, shares: Sequence[float]) -> dict[str, list[str]]:
    """By percentage the classes of which a draw has no positive, though there are some in train."""
    has_some, missing = train.positives() > 0, {}
    for share, of_share in zip(shares, drawn, strict=True):
        lacks = np.any([train.rows(rows).positives() == 0 for rows in of_share], axis=0) & has_some
        if lacks.any():
            percent = f"{100 * share:g}"
            missing[percent] = [train.classes[column] for column in np.flatnonzero(lacks)]
            names = printable(", ".join(missing[percent]), 200)
            logging.warning("%s %%: a draw has no positive of %s", percent, names)
    return missing


def _probes(
    whole: SetUp, drawn: Drawn, shares: Sequence[float], run_directory: RunDirectory
) -> tuple[Drawn, list[float | None]]:
    """The logits on test of a probe for each draw, and the median seconds of each share's.

    Features are computed once for all photos; the seconds count those of the subset.
    """
    job, test = whole.job, whole.prepared.splits["test"]
    path = run_directory.path / "logits_probe.npz"
    sizes = [len(of_share) for of_share in drawn]
    shape = (sum(sizes), len(test), len(test.classes))
    if not processes.by_first(path.exists)():
        start = time.perf_counter()
        photos, cells = job.seen_by_head(whole.prepared.photos["train"])
        seconds_a_photo = (time.perf_counter() - start) / len(photos)
        of_test = job.seen_by_head(whole.prepared.photos["test"])
        labels, label_mask = np.asarray(whole.training_set.labels), whole.training_set.label_mask
        found, took = [], []
        for share, of_share in zip(shares, drawn, strict=True):
            for number, rows in enumerate(of_share):
                start = time.perf_counter()
                head, _ = job.fit_head(photos[rows], cells[rows], labels[rows], label_mask[rows])
                took.append(time.perf_counter() - start + seconds_a_photo * len(rows))
                found.append(job.logits_by(head, *of_test))
                _say_point("probe", share, number, len(rows), found[-1], test, took[-1])
        run_directory.write_arrays(
            "logits_probe", {"logits": np.array(found), "seconds": np.array(took)}
        )
        processes.barrier()
    logits = _read(path, "logits", shape, path)
    seconds = _read(path, "seconds", shape[:1], path)
    ends = np.cumsum(sizes)[:-1]
    medians: list[float | None] = [float(np.median(its)) for its in np.split(seconds, ends)]
    return [list(its) for its in np.split(logits, ends)], medians


def _fine_tuned(
    whole: SetUp, drawn: Drawn, shares: Sequence[float], workdir: Path
) -> tuple[Drawn, list[float | None]]:
    """As `_probes`, of fine-tunings; the seconds are None where one was resumed."""
    logits: Drawn = []
    seconds: list[float | None] = []
    for share, of_share in zip(shares, drawn, strict=True):
        found = []
        for number, rows in enumerate(of_share):
            path = workdir / "fine_tuned" / f"{share:g}_{number}"
            found.append(_fine_tune(subset(whole, rows), path, share, number))
        logits.append([its for its, _ in found])
        known = [its for _, its in found if its is not None]
        seconds.append(float(np.median(known)) if len(known) == len(found) else None)
    return logits, seconds


def _fine_tune(
    part: SetUp, path: Path, share: float, number: int
) -> tuple[np.ndarray, float | None]:
    """The logits on test of a fine-tuning, which resumes in `path`, and its seconds."""
    job, splits, photos = part.job, part.prepared.splits, part.prepared.photos
    config = job.config.copy_and_resolve_references()
    with config.unlocked():
        config.task = POINT
        config.fractions, config.draws = (share,), number
    point = RunDirectory(path, config)
    point.compare(part.content)
    test = splits["test"]
    shape = (len(test), len(test.classes))
    if point.is_finished:
        point.check_finished(lambda: part.content)
    else:
        start = time.perf_counter()
        parts = tuning.parts_of(job, splits, photos["train"])
        point.begin(part.content)
        tuned = tuning.tune(
            job, splits, photos, part.training_set, parts, part.content, point, scores_start=False
        )
        seconds = tuned.ended["train"] - start
        logits = job.logits(tuned.variables, photos["test"])
        point.write_arrays("logits_test", {"logits": logits})
        point.write_results(
            {
                "chosen_step": tuned.step,
                "held_out": tuned.tried,
                "resumed_from": tuned.resumed_from,
                "seconds": {"train": seconds},
            }
        )
        _say_point("fine-tuned", share, number, len(splits["train"]), logits, test, seconds)
    if processes.is_first():
        shutil.rmtree(path / "checkpoints", ignore_errors=True)
    processes.barrier()
    results = point.read_results()
    is_timed = results["resumed_from"] is None
    seconds_or_none = results["seconds"]["train"] if is_timed else None
    return _read(path / "logits_test.npz", "logits", shape, path), seconds_or_none


def _say_point(
    what: str, share: float, draw: int, count: int, logits: np.ndarray, test: Split, seconds: float
) -> None:
    mean_ap = mean_ap_of(logits, test)
    shown = "-" if mean_ap is None else f"{100 * mean_ap:.1f}"
    of = "" if share == 1 else f", draw {draw + 1}"
    say(f"{what}, {100 * share:g} %{of}: {count} photos, mAP {shown}, {format_seconds(seconds)}")


def _read(path: Path, key: str, shape: tuple[int, ...], remedy: Path) -> np.ndarray:
    """An array that this run wrote, as the first process finds it; without `remedy` it is anew."""
    if not processes.is_first():
        return processes.broadcast(np.zeros(shape, np.float32))
    try:
        with schema.of_file(path):
            found = schema.finite(read_npz(path, inside=path.parent), key, shape)
    except UserError as error:
        raise UserError(
            f"{error}\nDelete {printable(remedy)}: the same command measures it again."
        ) from error
    return processes.broadcast(found.astype(np.float32))
