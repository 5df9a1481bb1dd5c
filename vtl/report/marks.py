"""A run directory -> its row in the table of a class: recomputed, or with a reason why not.

The directory is anybody's. Of a run only the row and some hashes are kept, so that a thousand take
no more memory than one.
"""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from vtl import identity
from vtl.errors import UserError
from vtl.evaluation import metrics
from vtl.report import knobs, rejection, runs, trust
from vtl.report.language import Language
from vtl.report.rejection import PROTOCOL
from vtl.report.runs import Run
from vtl.untrusted import printable, read_json, reading

MAX_CELLS, MAX_CELLS_OF_ALL = 1 << 20, 1 << 26
"""Scores with a bootstrap interval: a second of 5,000 photos and 20 classes, minutes of them all.
"""

MAX_MANIFEST_BYTES, MAX_CHECKPOINTS = 1 << 20, 100

OTHER_STATUSES = {"warn_unfinished": "unfinished", "warn_selected_on_test": "saw_test"}
"""Of runs that are rejected for something else than that their files contradict one another."""


class Reason(NamedTuple):
    """Why a run has no rank: one of the page's words, and the values to fill in."""

    key: str
    values: dict[str, Any]


@dataclasses.dataclass
class Mark:
    """One run's row.

    `status` is ranked, edited, copy, labels, photos, saw_test, unfinished, unreadable or no_map.
    `kind` is a regime or relu_study, `mean_ap` a fraction that was computed from the scores.
    `photos`, `labels`, `scores` and `checkpoints` are hashes of what the row was computed from,
    `content` is that of made_of.json, `keeps_start` says whether no step of the training was kept,
    and `same_as` names a run with the same scores of which this may be no copy.
    """

    name: str
    status: str = "ranked"
    reasons: list[Reason] = dataclasses.field(default_factory=list)
    rank: int | None = None
    kind: str | None = None
    network: str | None = None
    data_name: str | None = None
    data_set: int = 0
    mean_ap: float | None = None
    interval: list[float] | None = None
    knobs: dict[str, str] = dataclasses.field(default_factory=dict)
    warnings: list[trust.Finding] = dataclasses.field(default_factory=list)
    photos: str | None = None
    labels: str | None = None
    scores: str | None = None
    checkpoints: str | None = None
    seconds: str | None = None
    content: dict[str, Any] = dataclasses.field(default_factory=dict)
    keeps_start: bool = False
    same_as: str | None = None

    @property
    def student(self) -> str:
        """The first part of the name."""
        return self.name.partition("/")[0]

    def set_aside(self, status: str, key: str, values: Mapping[str, Any] | None = None) -> None:
        """Take it out of the ranking; what it was set aside for first remains its status."""
        self.status = status if self.status == "ranked" else self.status
        self.reasons.append(Reason(key, dict(values or {})))


def read(path: Path, name: str, cells_left: int) -> tuple[Mark, int]:
    """The row of one run, not compared with others yet, and how many scores were resampled."""
    mark = Mark(name)
    try:
        with reading(path):
            run = runs.read(path, name, with_gallery=False)
            return mark, _compute(mark, run, cells_left)
    except UserError as error:
        status = "unfinished" if isinstance(error, runs.Unfinished) else "unreadable"
        shown = printable(path)
        line = str(error).replace(f"{shown}/", "").removeprefix(f"{shown} ")
        row = Mark(name)
        row.set_aside(status, "why_line", {"line": line})
        return row, 0


def _compute(mark: Mark, run: Run, cells_left: int) -> int:
    mark.knobs = knobs.of_config(run.config)
    mark.network, mark.data_name = run.network_title, run.data_name
    rejected = list(rejection.checks(run))
    num_cells = 0
    if not run.scores:
        mark.kind = run.task
        mark.set_aside("no_map", "why_no_map")
    else:
        mark.kind = run.regime
        num_cells = _compute_map(mark, run, cells_left)
        mark.seconds = json.dumps(run.results["seconds"], sort_keys=True)
        mark.checkpoints = _checkpoints_sha256(run.path)
        content = (run.made_of or {}).get("content", {})
        mark.content = content if len(identity.flatten(content)) < knobs.MAX_OF_RUN else {}
        mark.keeps_start = run.results.get("chosen_step") == 0
        if mark.mean_ap is None:
            mark.set_aside("no_map", "why_no_positives")
    for key, values in rejected:
        mark.set_aside(OTHER_STATUSES.get(key, "edited"), key, values)
    keys = {key for key, _ in rejected}
    mark.warnings = [finding for finding in trust.of_run(run) if finding.key not in keys]
    return num_cells


def _compute_map(mark: Mark, run: Run, cells_left: int) -> int:
    scores = run.headline_scores
    labels = np.where(scores.is_known, scores.labels, identity.UNKNOWN).astype(np.uint8)
    mark.labels = identity.array_sha256(labels)
    ids = [mark.labels] if scores.ids is None else scores.ids
    mark.photos = identity.json_sha256([run.classes, identity.text_sha256(ids)])
    mark.scores = identity.array_sha256(np.asarray(scores.ranked_by, np.float64))
    if scores.scores.size > min(MAX_CELLS, cells_left):
        mark.mean_ap = rejection.map_of_scores(run, run.headline_split)
        return 0
    outcome = metrics.evaluate_scores(
        scores.scores,
        scores.labels,
        None,
        run.classes,
        label_mask=scores.label_mask,
        ranked_by=scores.ranked_by,
    )
    mark.mean_ap = outcome["map"][PROTOCOL]
    mark.interval = outcome["map_interval"][PROTOCOL]
    return scores.scores.size


def _checkpoints_sha256(path: Path) -> str | None:
    """Of the manifests of the checkpoints; None if there are none that can be read.

    A checkpoint's files have random names: a second run of the same command has others.
    """
    directory, manifests = path / "checkpoints", []
    if directory.is_symlink():
        return None
    try:
        with os.scandir(directory) as entries:
            steps = sorted(entry.name for entry in itertools.islice(entries, MAX_CHECKPOINTS))
    except OSError:
        return None
    for step in steps:
        try:
            manifests.append(
                read_json(
                    directory / step / "sha256.json", max_bytes=MAX_MANIFEST_BYTES, inside=path
                )
            )
        except UserError:
            continue
    content = json.dumps(manifests, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest() if manifests else None


def said(mark: Mark, language: Language) -> str:
    """Why it has no rank, in words without markup."""
    return " ".join(explained(why, language).striptags() for why in mark.reasons)


def explained(reason: Reason, language: Language) -> Markup:
    """A reason in words."""
    values = {name: language.value(value) for name, value in reason.values.items()}
    return language(reason.key, **values)
