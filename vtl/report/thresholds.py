"""The table of a run's answers at its thresholds."""

from typing import Any

from vtl.decisions import HALF
from vtl.evaluation.answers import QUANTITIES, notes
from vtl.report.language import Language
from vtl.report.runs import Run
from vtl.report.tables import Cell, Table


def section(run: Run, language: Language) -> dict[str, Any] | None:
    """The note, table and lines of the run's headline split; None of a run of vtl 0.1."""
    found = run.results.get("answers", {}).get(run.headline_split)
    if found is None:
        return None
    chosen = run.results.get("decisions")
    values = {"run": run.name, "split": run.headline_split}
    kind = "likeliest" if "one_label" in run.results else "half"
    note, lines = language(f"thresholds_{kind}", **values), []
    if not found.get("is_unseen", True):
        lines.append(language("thresholds_in_sample", split=run.headline_split))
    if chosen:
        about = {"rule": chosen["rule"], "chosen_on": chosen["chosen_on"]}
        kind = "of_one" if "one_label" in run.results else "chosen"
        note = language(f"thresholds_{kind}", **values, **about)
        lines += [
            language("thresholds_note", note=text, classes=", ".join(names))
            for text, names in notes(chosen["by_class"]).items()
        ]
        gain = found.get("macro_f1_gain")
        if gain and gain["value"] is not None:
            points = language.percent(gain["value"], signed=True)
            interval = language.interval(gain["interval"], signed=True)
            lines.append(language("thresholds_gain", gain=f"{points} {interval}".rstrip()))
        scores = [found.get(f"{stage}_calibration", {}) for stage in ("before", "after")]
        if None not in [each.get("brier") for each in scores]:
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
        half = 0.0 if "one_label" in run.results else HALF
        entry: dict[str, Any] = {"threshold": half, "interval": None, "note": ""}
        if chosen:
            entry = chosen["by_class"][name]
        shown = _threshold(entry, language)
        cells = _estimates(found["by_class"][name], language)
        rows.append([Cell(name), Cell(shown, entry["threshold"]), *cells])
    rows += [
        [Cell(language(mean)), Cell("", -1.0), *_estimates(found[mean], language)]
        for mean in ("macro", "micro")
    ]
    return Table(headings, rows)


def _threshold(entry: dict[str, Any], language: Language) -> str:
    value, mark = language.number(entry["threshold"], 3), "*" if entry["note"] else ""
    if entry["interval"]:
        bounds = (language.number(bound, 3) for bound in entry["interval"])
        value = language.bracketed(value, *bounds)
    return value + mark


def _estimates(found: dict[str, Any], language: Language) -> list[Cell]:
    return [
        Cell(
            language.estimate(found[name]["value"], found[name]["interval"]),
            -1.0 if found[name]["value"] is None else found[name]["value"],
        )
        for name in QUANTITIES
    ]
