"""The section on a learning curve: its sentence, figure and table."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from vtl.report import figures
from vtl.report.language import Language
from vtl.report.runs import Run
from vtl.report.tables import Cell, Table

CURVES = ("probe", "fine_tuned")


def section(run: Run, language: Language) -> dict[str, Any]:
    """The title, the sentence, the figure, the table, a note, and what subsets lack."""
    found = run.results["curve"]
    values = {"draws": found["draws"], "protocol": found["protocol"]}
    count = language.number(found["num_test"], 0)
    return {
        "title": language("label_curve", name=run.name),
        "sentence": sentence(run, language),
        "figure": figures.label_curve(found, language),
        "table": _table(found, language),
        "note": language("label_curve_note", count=count, **values),
        "missing": [
            language("label_curve_missing", share=f"{share} %", classes=language.listing(names, 10))
            for share, names in found["missing"].items()
        ],
    }


def sentence(run: Run, language: Language) -> Markup:
    """What twice the labels, fine-tuning, and neither give."""
    found = run.results["curve"]
    parts = [language("label_curve_twice", gain=_foreseen(found["probe"]["twice"], language))]
    if "difference" in found:
        gain = _gain(found["difference"], -1, language)
        parts.append(language("label_curve_finetuning", gain=gain))
    now = _estimate(found["probe"], -1, language)
    parts.append(language("label_curve_neither", mean=now))
    text = Markup(language("semicolon")).join(parts)
    more = language(f"label_curve_more_{found['more']}") if "more" in found else ""
    return language("label_curve_sentence", run=run.name, parts=text, more=more)


def _foreseen(twice: dict[str, Any], language: Language) -> Markup | str:
    gain = _written(twice["gain"], twice["interval"], language)
    if twice["why_nothing"] is None:
        return gain
    return language("label_curve_nothing", why=language(f"why_{twice['why_nothing']}"))


def _table(found: dict[str, Any], language: Language) -> Table:
    names = [name for name in CURVES if name in found]
    columns = ["labels", "labelled", *(f"map_{name}" for name in names)]
    columns += ["gain"] if "difference" in found else []
    columns += [f"time_{name}" for name in names]
    rows = []
    for place, share in enumerate(found["fractions"]):
        photos = found["photos"][place]
        row = [Cell(_share(share, language), share), Cell(language.number(photos, 0), photos)]
        row += [
            Cell(_estimate(found[name], place, language), found[name]["map"][place])
            for name in names
        ]
        if "difference" in found:
            difference = found["difference"]
            row.append(Cell(_gain(difference, place, language), difference["map"][place]))
        for name in names:
            seconds = found[name]["seconds"][place]
            shown = "–" if seconds is None else language.seconds(seconds)
            row.append(Cell(shown, -1 if seconds is None else seconds))
        rows.append(row)
    return Table([language(f"column_{name}") for name in columns], rows)


def _share(share: float, language: Language) -> str:
    return f"{language.decimal(f'{100 * share:g}')} %"


def _estimate(of: dict[str, Any], place: int, language: Language) -> str:
    return language.estimate(of["map"][place], of["map_interval"][place])


def _gain(of: dict[str, Any], place: int, language: Language) -> str:
    return _written(of["map"][place], of["map_interval"][place], language)


def _written(gain: float, interval: Sequence[float], language: Language) -> str:
    return f"{language.percent(gain, signed=True)} {language.interval(interval)}"
