"""The table of a run's answers at its thresholds."""

from typing import Any

from vtl.report.language import Language
from vtl.report.runs import Run
from vtl.report.tables import Cell, Table

QUANTITIES = ("precision", "recall", "f1")


def section(run: Run, language: Language) -> dict[str, Any] | None:
    """The note, table and lines of the run's headline split; None of a run of vtl 0.1."""
    found = run.results.get("answers", {}).get(run.headline_split)
    if found is None:
        return None
    chosen = run.results.get("decisions")
    values = {"run": run.name, "split": run.headline_split}
    note, lines = language("thresholds_half", **values), []
    if chosen:
        about = {"rule": chosen["rule"], "chosen_on": chosen["chosen_on"]}
        note = language("thresholds_chosen", **values, **about)
        gain = found.get("macro_f1_gain")
        if gain and gain["value"] is not None:
            points = language.percent(gain["value"], signed=True)
            interval = language.interval(gain["interval"], signed=True)
            lines.append(language("thresholds_gain", gain=f"{points} {interval}".rstrip()))
        if "after_calibration" in found:
            brier = {
                stage: language.number(found[f"{stage}_calibration"]["brier"], 4)
                for stage in ("before", "after")
            }
            lines.append(language("thresholds_calibration", **brier))
    return {"note": note, "table": _table(run, found, chosen, language), "lines": lines}


def _table(
    run: Run, found: dict[str, Any], chosen: dict[str, Any] | None, language: Language
) -> Table:
    headings = [language(f"column_{name}") for name in ("class", "threshold", *QUANTITIES)]
    rows = []
    for name in run.classes:
        entry: dict[str, Any] = {"threshold": 0.5, "note": ""}
        if chosen:
            entry = chosen["by_class"][name]
        shown = language.number(entry["threshold"], 3) + ("*" if entry["note"] else "")
        cells = _estimates(found["by_class"][name], language)
        rows.append([Cell(name), Cell(shown, entry["threshold"]), *cells])
    rows += [
        [Cell(language(mean)), Cell("", -1.0), *_estimates(found[mean], language)]
        for mean in ("macro", "micro")
    ]
    return Table(headings, rows)


def _estimates(found: dict[str, Any], language: Language) -> list[Cell]:
    return [
        Cell(
            language.estimate(found[name]["value"], found[name]["interval"]),
            -1.0 if found[name]["value"] is None else found[name]["value"],
        )
        for name in QUANTITIES
    ]
