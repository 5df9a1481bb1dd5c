"""The rows of a class's runs, compared with one another and ranked."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtl import identity
from vtl.report import knobs, marks
from vtl.report.language import Language
from vtl.report.marks import Mark
from vtl.untrusted import printable


def of_runs(paths: Sequence[Path], names: Sequence[str]) -> list[Mark]:
    """The rows of the runs: by data set the ranked ones, the best first, and then the others."""
    rows: list[Mark] = []
    num_cells = 0
    for path, name in zip(paths, names, strict=True):
        mark, cells = marks.read(path, name, marks.MAX_CELLS_OF_ALL - num_cells)
        num_cells += cells
        rows.append(mark)
    _set_aside_other_photos(rows)
    _set_aside_other_labels(rows)
    _set_aside_copies(rows)
    _rank(rows)
    last = len(rows) + 1

    def order(mark: Mark) -> tuple[Any, ...]:
        return mark.data_set or last, mark.rank or last, -_mean(mark), mark.name

    return sorted(rows, key=order)


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


def _set_aside_other_photos(rows: Sequence[Mark]) -> None:
    """Number the data sets, the largest first; leave out who has other photos of the same data."""
    with_photos = [mark for mark in rows if mark.photos is not None]
    sizes = Counter(mark.photos for mark in with_photos)
    numbers = {photos: number for number, (photos, _) in enumerate(sizes.most_common(), start=1)}
    most: Counter[str | None] = Counter()
    for mark in with_photos:
        most[mark.data_name] = max(most[mark.data_name], sizes[mark.photos])
        mark.data_set = numbers[mark.photos]
    for mark in with_photos:
        if mark.data_name and sizes[mark.photos] < most[mark.data_name]:
            mark.set_aside("photos", "why_other_photos", {"count": most[mark.data_name]})


def _set_aside_other_labels(rows: Sequence[Mark]) -> None:
    """Of runs on the same photos the labels of most are right, if any are those of most."""
    by_photos: dict[str, list[Mark]] = {}
    for mark in rows:
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


def _set_aside_copies(rows: Sequence[Mark]) -> None:
    """Of runs with the same scores or checkpoints, the first that is ranked stays so.

    The same command with the same seed may give the same scores, bit for bit: such a run keeps its
    rank, and is named. Not so its times, nor the random names of the files of its checkpoints.
    """
    by_scores: dict[Any, Mark] = {}
    by_checkpoints: dict[str, Mark] = {}
    for mark in sorted(rows, key=lambda mark: mark.status != "ranked"):
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
    changed = set(knobs.differing([mark.knobs, first.knobs]).names) - {"weights"}
    other_content = identity.other_content(mark.content, first.content)
    return bool(mark.kind != first.kind or changed or other_content)


def _rank(rows: Sequence[Mark]) -> None:
    """1, 2, 2, 4 in each data set."""
    ranked = [mark for mark in rows if mark.status == "ranked"]
    for mark in ranked:
        above = [m for m in ranked if m.data_set == mark.data_set and _mean(m) > _mean(mark)]
        mark.rank = 1 + len(above)


def _mean(mark: Mark) -> float:
    return -1.0 if mark.mean_ap is None else mark.mean_ap


def data_titles(rows: Sequence[Mark], language: Language) -> dict[int, str]:
    """What each data set is called; of a second one with the same name it has a number."""
    titles, count = {}, Counter[str]()
    named = {(mark.data_set, language.data_set(mark.data_name)) for mark in rows if mark.data_set}
    for number, title in sorted(named):
        if number not in titles:
            count[title] += 1
            titles[number] = title if count[title] == 1 else f"{title} ({count[title]})"
    return titles
