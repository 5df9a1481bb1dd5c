"""The rows of a class's runs -> one HTML page to mark from."""

from collections.abc import Sequence

from markupsafe import Markup

import vtl
from vtl.report import knobs, marks
from vtl.report.knobs import NO_VALUE
from vtl.report.language import Language
from vtl.report.marks import Mark
from vtl.report.page import environment
from vtl.report.ranking import data_titles
from vtl.report.rejection import PROTOCOL
from vtl.report.tables import Cell, Table

TO_ASK = ("edited", "copy", "labels", "photos", "saw_test")
"""The statuses that only somebody's hands, or a mistake, give a finished run."""

MAX_KNOBS = 12
"""More columns than this don't fit; the CSV has them."""

MAX_NAMED = 8
"""Runs that a warning names; of more it gives the number."""


def make(rows: Sequence[Mark], problems: Sequence[str], command: str, language: Language) -> str:
    """The page as HTML; `problems` is one line about each place that could not be searched."""
    num_ranked = sum(row.rank is not None for row in rows)
    unranked = sorted((row for row in rows if row.rank is None), key=lambda row: row.name)
    return (
        environment()
        .get_template("class.html.jinja")
        .render(
            say=language,
            explain=lambda reason: marks.explained(reason, language),
            title=language("class_title", count=language.number(len(rows), 0)),
            counts=language(
                "class_counts",
                ranked=language.number(num_ranked, 0),
                count=language.number(len(rows), 0),
                protocol=PROTOCOL,
            ),
            made_by=language("made_by", command=command, version=vtl.__version__),
            problems=problems,
            to_ask=[row for row in unranked if row.status in TO_ASK],
            others=[row for row in unranked if row.status not in TO_ASK],
            same=_same(rows, language),
            of_runs=_table(rows, language),
            note=_note(rows, language),
            warnings=_warnings(rows, language),
        )
    )


def _table(rows: Sequence[Mark], language: Language) -> Table:
    titles = data_titles(rows, language)
    names = knobs.differing([row.knobs for row in rows]).names[:MAX_KNOBS]
    headings: list[str] = [
        language("column_run"),
        language("column_rank"),
        language("column_map", protocol=PROTOCOL),
        language("column_kind"),
        language("column_network"),
    ]
    with_data = len(titles) > 1
    if with_data:
        headings.append(language("column_data"))
    last = len(rows) + 1
    table = []
    for row in rows:
        rank = language(f"status_{row.status}") if row.rank is None else row.rank
        mean = -1.0 if row.mean_ap is None else row.mean_ap
        cells = [
            Cell(row.name),
            Cell(rank, row.rank or last),
            Cell(language.estimate(row.mean_ap, row.interval), mean),
            Cell(language(f"regime_{row.kind}") if row.kind else NO_VALUE),
            Cell(row.network or NO_VALUE),
        ]
        if with_data:
            cells.append(Cell(titles.get(row.data_set, NO_VALUE)))
        table.append([*cells, *(Cell(row.knobs.get(name, NO_VALUE)) for name in names)])
    return Table([*headings, *names], table)


def _same(rows: Sequence[Mark], language: Language) -> list[tuple[str, str]]:
    """(ranked runs, the run whose scores they have) pairs."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.same_as and row.rank is not None:
            names.setdefault(row.same_as, []).append(row.name)
    return [(language.listing(of), first) for first, of in names.items()]


def _note(rows: Sequence[Mark], language: Language) -> Markup:
    sentences = ["class_intervals", "class_table_note"]
    if len(data_titles(rows, language)) > 1:
        sentences.append("class_of_data")
    said = [language(key) for key in (*sentences, "sortable")]
    names, num_left_out = knobs.differing([row.knobs for row in rows])
    num_left_out += max(0, len(names) - MAX_KNOBS)
    if num_left_out:
        said.insert(2, language("class_knobs_left_out", count=language.number(num_left_out, 0)))
    return Markup(" ").join(said)


def _warnings(rows: Sequence[Mark], language: Language) -> list[tuple[str, Markup]]:
    """(runs, warning) pairs: one of each warning, with the runs that it is about."""
    names: dict[Markup, list[str]] = {}
    for row in rows:
        for finding in row.warnings:
            values = {name: language.value(value) for name, value in finding.values.items()}
            names.setdefault(language(finding.key, **values), []).append(row.name)
    by_count = sorted(names.items(), key=lambda pair: -len(pair[1]))
    return [(language.listing(of, MAX_NAMED), warning) for warning, of in by_count]
