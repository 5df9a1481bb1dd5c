"""Run directories -> one row a run, to mark from: recomputed, ranked, or with a reason why not.

The directories are anybody's. Of each run only a row and some hashes are kept, so that a thousand
take no more memory than one.
"""

import csv
import dataclasses
import hashlib
import io
import itertools
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from vtl import identity
from vtl.errors import UserError
from vtl.evaluation import metrics
from vtl.report import rejection, runs, trust
from vtl.report.language import Language
from vtl.report.rejection import PROTOCOL
from vtl.report.runs import Run
from vtl.untrusted import no_formula, printable, read_json, reading

MAX_CELLS, MAX_CELLS_OF_ALL = 1 << 20, 1 << 26
"""Scores with a bootstrap interval: a second of 5,000 photos and 20 classes, minutes of them all.
"""

MAX_KNOBS_OF_RUN, MAX_KNOB_COLUMNS = 300, 100
"""A config has 60 knobs; who adds thousands gets no columns for them."""

MAX_MANIFEST_BYTES, MAX_CHECKPOINTS = 1 << 20, 100

WHERE_FILES_LIE = frozenset(identity.PATHS) - {"weights"}
"""Knobs that are others on every machine."""

NO_VALUE = "–"

CSV_COLUMNS = (
    *("student", "directory", "kind", "network", "data"),
    *("map", "map_low", "map_high", "protocol", "rank", "reason", "same_scores_as"),
)

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
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
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


class Knobs(NamedTuple):
    """The knobs that differ between runs of one task, those that most runs differ in first."""

    names: list[str]
    num_left_out: int


def of_runs(paths: Sequence[Path], names: Sequence[str]) -> list[Mark]:
    """The rows of the runs: by data set the ranked ones, the best first, and then the others."""
    marks, num_cells = [], 0
    for path, name in zip(paths, names, strict=True):
        mark, cells = _read(path, name, MAX_CELLS_OF_ALL - num_cells)
        num_cells += cells
        marks.append(mark)
    _set_aside_other_photos(marks)
    _set_aside_other_labels(marks)
    _set_aside_copies(marks)
    _rank(marks)
    last = len(marks)

    def order(mark: Mark) -> tuple[Any, ...]:
        mean = -1.0 if mark.mean_ap is None else mark.mean_ap
        return mark.data_set or last, mark.rank or last, mark.mean_ap is None, -mean, mark.name

    return sorted(marks, key=order)


def names_below(paths: Sequence[Path], given: Sequence[Path]) -> list[str]:
    """Each path from the directory that was given, or from where those that were given lie."""
    root = given[0] if len(given) == 1 else Path(os.path.commonpath([p.parent for p in given]))
    root = root.parent if root in paths else root
    names = [printable(os.path.relpath(path, root), 120) for path in paths]
    count = Counter(names)
    return [
        f"{name} ({place})" if count[name] > 1 else name
        for place, name in enumerate(names, start=1)
    ]


def _read(path: Path, name: str, cells_left: int) -> tuple[Mark, int]:
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
    mark.knobs = _knobs(run.config)
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
        mark.config = run.config if len(mark.knobs) < MAX_KNOBS_OF_RUN else {}
        content = (run.made_of or {}).get("content", {})
        mark.content = content if len(identity.flatten(content)) < MAX_KNOBS_OF_RUN else {}
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


def _knobs(config: dict[str, Any]) -> dict[str, str]:
    flat = identity.flatten(config)
    names = [name for name in flat if name not in WHERE_FILES_LIE]
    return {name: _written(flat[name]) for name in names[:MAX_KNOBS_OF_RUN]}


def _written(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value), 60)


def differing_knobs(marks: Sequence[Mark]) -> Knobs:
    """The knobs in which runs of the same task differ."""
    by_task: dict[str, list[Mark]] = {}
    for mark in marks:
        if mark.knobs:
            by_task.setdefault(mark.knobs.get("task", ""), []).append(mark)
    differing: dict[str, tuple[int, int]] = {}
    for of_task in by_task.values():
        for name in {name: None for mark in of_task for name in mark.knobs}:
            missing = _written(identity.ADDED[name]) if name in identity.ADDED else NO_VALUE
            values = Counter(mark.knobs.get(name, missing) for mark in of_task)
            others = len(of_task) - values.most_common(1)[0][1]
            if others:
                num_with = sum(name in mark.knobs for mark in of_task)
                before = differing.get(name, (0, 0))
                differing[name] = before[0] + others, before[1] + num_with
    # What one run alone has may be made up: it comes last.
    names = sorted(differing, key=lambda n: (-differing[n][0], -differing[n][1], n))
    return Knobs(names[:MAX_KNOB_COLUMNS], max(0, len(names) - MAX_KNOB_COLUMNS))


def _set_aside_other_photos(marks: Sequence[Mark]) -> None:
    """Number the data sets, the largest first; leave out who has other photos of the same data."""
    with_photos = [mark for mark in marks if mark.photos is not None]
    sizes = Counter(mark.photos for mark in with_photos)
    numbers = {photos: number for number, (photos, _) in enumerate(sizes.most_common(), start=1)}
    most: Counter[str | None] = Counter()
    for mark in with_photos:
        most[mark.data_name] = max(most[mark.data_name], sizes[mark.photos])
        mark.data_set = numbers[mark.photos]
    for mark in with_photos:
        if mark.data_name and sizes[mark.photos] < most[mark.data_name]:
            mark.set_aside("photos", "why_other_photos", {"count": most[mark.data_name]})


def _set_aside_other_labels(marks: Sequence[Mark]) -> None:
    """Of runs on the same photos the labels of most are right, if any are those of most."""
    by_photos: dict[str, list[Mark]] = {}
    for mark in marks:
        if mark.photos is not None:
            by_photos.setdefault(mark.photos, []).append(mark)
    for same_photos in by_photos.values():
        (labels, count), *others = Counter(m.labels for m in same_photos).most_common(2)
        if not others:
            continue
        is_most = count > others[0][1]
        for mark in same_photos:
            if not is_most:
                mark.set_aside("labels", "why_labels_differ", {"count": len(same_photos)})
            elif mark.labels != labels:
                mark.set_aside("labels", "why_other_labels", {"count": count})


def _set_aside_copies(marks: Sequence[Mark]) -> None:
    """Of runs with the same scores or checkpoints, the first that is ranked stays so.

    The same command with the same seed may give the same scores, bit for bit: such a run keeps its
    rank, and is named. Not so its times, nor the random names of the files of its checkpoints.
    """
    by_scores: dict[Any, Mark] = {}
    by_checkpoints: dict[str, Mark] = {}
    for mark in sorted(marks, key=lambda mark: mark.status != "ranked"):
        if mark.scores is None:
            continue
        first = by_scores.setdefault((mark.photos, mark.scores), mark)
        saved = mark
        if mark.checkpoints is not None:
            saved = by_checkpoints.setdefault(mark.checkpoints, mark)
        if saved is not mark:
            key = "why_copied" if saved.scores == mark.scores else "why_same_checkpoints"
            mark.set_aside("copy", key, {"other": saved.name})
        elif first is mark:
            continue
        elif mark.seconds == first.seconds:
            mark.set_aside("copy", "why_copied", {"other": first.name})
        elif _is_another(mark, first) and not (mark.keeps_start and first.keeps_start):
            mark.set_aside("copy", "why_same_of_another", {"other": first.name})
        else:
            mark.same_as = first.name


def _is_another(mark: Mark, first: Mark) -> bool:
    """Whether config or data differ, but for knobs that only one version of vtl has."""
    before, now = mark.config, first.config
    changed = identity.changes(before, now).keys() & identity.changes(now, before).keys()
    return bool(
        changed - set(identity.PATHS) or identity.other_content(mark.content, first.content)
    )


def _rank(marks: Sequence[Mark]) -> None:
    """1, 2, 2, 4 in each data set."""
    ranked = [mark for mark in marks if mark.status == "ranked"]
    for mark in ranked:
        above = [m for m in ranked if m.data_set == mark.data_set and _mean(m) > _mean(mark)]
        mark.rank = 1 + len(above)


def _mean(mark: Mark) -> float:
    return -1.0 if mark.mean_ap is None else mark.mean_ap


def data_titles(marks: Sequence[Mark], language: Language) -> dict[int, str]:
    """What each data set is called; of a second one with the same name it has a number."""
    titles, count = {}, Counter[str]()
    named = {(mark.data_set, language.data_set(mark.data_name)) for mark in marks if mark.data_set}
    for number, title in sorted(named):
        if number not in titles:
            count[title] += 1
            titles[number] = title if count[title] == 1 else f"{title} ({count[title]})"
    return titles


def as_csv(marks: Sequence[Mark], language: Language) -> str:
    """The rows as CSV: mAP as fractions, reasons in the page's language, no formulas."""
    knobs, titles = differing_knobs(marks).names, data_titles(marks, language)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*CSV_COLUMNS, *(f"config.{name}" for name in knobs)])
    for mark in marks:
        low, high = mark.interval or (None, None)
        cells = [
            *(mark.student, mark.name, mark.kind, mark.network, titles.get(mark.data_set)),
            *map(_fraction, (mark.mean_ap, low, high)),
            PROTOCOL if mark.mean_ap is not None else "",
            "" if mark.rank is None else str(mark.rank),
            said(mark, language),
            mark.same_as,
            *(mark.knobs.get(name, "") for name in knobs),
        ]
        writer.writerow([_cell(cell or "") for cell in cells])
    return file.getvalue()


def said(mark: Mark, language: Language) -> str:
    """Why it has no rank, in words without markup."""
    return " ".join(explained(why, language).striptags() for why in mark.reasons)


def explained(reason: Reason, language: Language) -> Markup:
    """A reason in words."""
    values = {name: language.value(value) for name, value in reason.values.items()}
    return language(reason.key, **values)


def _fraction(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _cell(text: str) -> str:
    """What a spreadsheet takes for text or a number, never for a formula."""
    try:
        float(text)
    except ValueError:
        return no_formula(text)
    return text
