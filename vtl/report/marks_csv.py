"""The rows of a class's runs as CSV, for a spreadsheet, which computes none of the cells."""

import csv
import io
from collections.abc import Sequence

from vtl.report import knobs
from vtl.report.language import Language
from vtl.report.marks import Mark, said
from vtl.report.ranking import data_titles
from vtl.report.rejection import PROTOCOL
from vtl.untrusted import no_formula

COLUMNS = (
    *("student", "directory", "kind", "network", "data"),
    *("map", "map_low", "map_high", "protocol", "rank", "reason", "same_scores_as"),
)


def write(rows: Sequence[Mark], language: Language) -> str:
    """The rows as CSV: mAP as fractions, reasons in the page's language, no formulas."""
    names = knobs.differing([row.knobs for row in rows]).names
    titles = data_titles(rows, language)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"config.{name}" for name in names)])
    for row in rows:
        low, high = row.interval or (None, None)
        cells = [
            *(row.student, row.name, row.kind, row.network, titles.get(row.data_set)),
            *map(_fraction, (row.mean_ap, low, high)),
            PROTOCOL if row.mean_ap is not None else "",
            "" if row.rank is None else str(row.rank),
            said(row, language),
            row.same_as,
            *(row.knobs.get(name, "") for name in names),
        ]
        writer.writerow([_cell(cell or "") for cell in cells])
    return file.getvalue()


def _fraction(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _cell(text: str) -> str:
    """What a spreadsheet takes for text or a number, never for a formula."""
    try:
        float(text)
    except ValueError:
        return no_formula(text)
    return text
