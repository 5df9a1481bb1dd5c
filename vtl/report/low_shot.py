"""The table of a probe's low-shot SVMs."""

from typing import Any

from vtl.report.language import Language
from vtl.report.runs import Run
from vtl.report.tables import Cell, Table

CHOICES = ("chosen_on_train", "chosen_on_test")


def section(run: Run, language: Language) -> dict[str, Any] | None:
    """The note and the table; None of a run without low-shot SVMs."""
    found = run.results.get("low_shot")
    if found is None:
        return None
    values = {"run": run.name, "draws": len(found["seeds"]), "protocol": found["protocol"]}
    note = language(
        "low_shot_note",
        negatives=found["negatives_for_each_positive"],
        seeds=_seeds(found),
        **values,
    )
    headings = [language(f"column_{name}") for name in ("k", "classes_of_k", *CHOICES)]
    rows = []
    for k, of_k in found["by_k"].items():
        row = [Cell(k, float(k)), Cell(language.number(of_k["classes"], 0), of_k["classes"])]
        rows.append([*row, *(_map(of_k[name], language) for name in CHOICES)])
    return {"note": note, "table": Table(headings, rows)}


def _seeds(found: dict[str, Any]) -> str:
    return ", ".join(map(str, found["seeds"]))


def _map(choice: dict[str, Any] | None, language: Language) -> Cell:
    if choice is None:
        return Cell("–", -1.0)
    deviation = language.percent(choice["deviation"])
    return Cell(f"{language.percent(choice['mean'])} ± {deviation}", choice["mean"])
