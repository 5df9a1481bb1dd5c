"""The page's summary: headlines, and the tables of runs, published results and ReLU studies."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from vtl.evaluation import metrics
from vtl.relu_study import conclusion
from vtl.report.compare import DataSet, difference
from vtl.report.language import Language
from vtl.report.rejection import PROTOCOL, is_rejected
from vtl.report.runs import Run
from vtl.report.tables import Cell, Table

MAX_NAMED = 5
"""Runs that a sentence names; of more it gives the number."""


def headline(data_set: DataSet, language: Language) -> Markup:
    """The run with the highest mAP, and the runs that it is tied with."""
    if not data_set.ranked:
        return language("headline_none", name=language.data_set(data_set.name))
    best = data_set.best
    tied = [run.name for run in data_set.by_map if run is not best and _is_tie(best, run)]
    if tied:
        key = "headline_tied"
    else:
        key = "headline_best" if len(data_set.ranked) > 1 else "headline_alone"
    means, intervals = best.headline_result("map"), best.headline_result("map_interval")
    return language(
        key,
        name=language.data_set(data_set.name),
        run=best.name,
        others=language.listing(tied, MAX_NAMED) if tied else "",
        mean=language.estimate(means[PROTOCOL], intervals[PROTOCOL]),
        split=best.headline_split,
        protocol=PROTOCOL,
    )


def _is_tie(run: Run, other: Run) -> bool:
    gap = difference(run, other)
    return gap is not None and gap.verdict == "tie"


def data_set_title(data_set: DataSet, language: Language) -> Markup:
    """A data set's name, with its photos and classes."""
    first = data_set.first
    return language(
        "data_set",
        name=language.data_set(data_set.name),
        count=language.number(len(first.headline_scores.scores), 0),
        split=first.headline_split,
        classes=len(first.classes),
    )


def of_data_set(data_set: DataSet, language: Language) -> dict[str, Any]:
    """The table of the runs on one data set, and that of published results beside it."""
    protocols = list(metrics.PROTOCOLS)
    headings = [
        *(language(f"column_{name}") for name in ("run", "regime", "weights", "photos")),
        *(language("column_map", protocol=name) for name in protocols),
        language("column_train_map", protocol=PROTOCOL),
        *(language(f"column_{name}") for name in ("parameters", "rate", "time", "seed", "commit")),
    ]
    rows = [
        _row(run, _marked_name(run, data_set, language), protocols, language)
        for run in data_set.runs
    ]
    return {
        "title": data_set_title(data_set, language),
        "table": Table(headings, rows),
        "published": _published(data_set, language),
    }


def _marked_name(run: Run, data_set: DataSet, language: Language) -> Markup | str:
    if is_rejected(run):
        return Markup("{} ✗ {}").format(run.name, language("not_ranked"))
    if len(data_set.runs) > 1 and run is data_set.best:
        return Markup("<strong>{}</strong> ★ {}").format(run.name, language("best"))
    return run.name


def _row(run: Run, name: Markup | str, protocols: Sequence[str], language: Language) -> list[Cell]:
    results = run.results
    num_photos = results["num_images"].get("train", 0)
    train = results["map"].get("train", {}).get(PROTOCOL)
    seconds = results["seconds"]
    total = seconds.get("total", sum(seconds.values()))
    rate = results.get("images_per_second")
    commit = results.get("commit") or "–"
    means, intervals = run.headline_result("map"), run.headline_result("map_interval")
    return [
        Cell(name),
        Cell(language(f"regime_{run.regime}")),
        Cell(_weights(run, language)),
        Cell(language.number(num_photos, 0), num_photos),
        *(Cell(language.estimate(means[p], intervals[p]), means[p] or -1) for p in protocols),
        Cell(language.percent(train), -1 if train is None else train),
        Cell(language.number(results["trainable_parameters"], 0), results["trainable_parameters"]),
        Cell(language.number(rate) if rate else "–", rate or -1),
        Cell(language.seconds(total), total),
        Cell(results["seed"], results["seed"]),
        Cell(commit[:7] + ("-dirty" if commit.endswith("-dirty") else "")),
    ]


def _weights(run: Run, language: Language) -> str:
    """The name of the weights, if a run has them; where a probe's features come from is unknown."""
    weights = run.results.get("weights")
    if weights:
        return weights.get("name") or "–"
    return language("no_weights" if run.task == "finetune" else "unknown")


def _published(data_set: DataSet, language: Language) -> Table | None:
    if not data_set.published:
        return None
    columns = ("source", "model", "regime", "map", "ap", "difficult", "input")
    headings = [language(f"column_{name}", protocol="%") for name in columns]
    rows = [
        [
            Cell(Markup('<a href="{}">{}</a>').format(row.url, row.source)),
            Cell(row.model),
            Cell(language(f"regime_{row.regime}")),
            Cell(language.number(row.mean_ap), row.mean_ap),
            Cell(row.average_precision),
            Cell(row.difficult),
            Cell(row.input),
        ]
        for row in data_set.published
    ]
    return Table(headings, rows)


def of_study(run: Run, language: Language) -> dict[str, Any]:
    """The table of a run of the ReLU study: one row for each network and activation."""
    thresholds = [f"{threshold:g}" for threshold in run.config["thresholds"]]
    names = ("network", "activation", "learning_rate")
    headings = [language(f"column_{name}") for name in names]
    headings += [Markup(f"{100 * float(threshold):g} %") for threshold in thresholds]
    headings += [language(f"column_{name}") for name in ("lowest_loss", "test_accuracy")]
    rows = []
    for network, outcome in run.results["networks"].items():
        for activation, measured in outcome["activations"].items():
            row = [Cell(conclusion.NETWORK_TITLES[network]), Cell(conclusion.title(activation))]
            if measured["status"] == "diverged":
                diverged = Cell(language("study_all_diverged"), -1)
                row += [diverged] * (len(headings) - len(row))
            else:
                row += _measurements(measured, thresholds, outcome["num_epochs"], language)
            rows.append(row)
    return {
        "title": language("study", name=run.name),
        "note": language("study_note", seeds=len(run.config["seeds"])),
        "table": Table(headings, rows),
    }


def _measurements(
    measured: dict[str, Any], thresholds: Sequence[str], num_epochs: float, language: Language
) -> list[Cell]:
    """The cells of one activation; what was never reached sorts after the last epoch."""
    rate = measured["learning_rate"]
    cells = [Cell(language.decimal(f"{rate:g}"), rate)]
    times = [measured["epochs_to_accuracy"][threshold] for threshold in thresholds]
    for time in (*times, measured["epochs_to_lowest_loss"]):
        median = num_epochs + 1 if time["median"] is None else time["median"]
        cells.append(Cell(_estimate(time["text"], language), median))
    accuracy = measured["test_accuracy"]["median"]
    return [*cells, Cell(f"{language.percent(accuracy, 2)} %", accuracy)]


def _estimate(text: str, language: Language) -> str:
    """An estimate of results.json, `3.1 [2.8, 3.4]`, in the page's language."""
    numbers = text.replace("[", "").replace("]", "").replace(",", "").split()
    value, low, high = (language.decimal(number) for number in numbers)
    return language.bracketed(value, low, high)
