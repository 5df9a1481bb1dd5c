"""Runs -> one HTML page that needs no other file."""

import json
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

import vtl
from vtl.report import (
    answers,
    compare,
    figures,
    learning_curve,
    low_shot,
    photos,
    summary,
    thresholds,
    trust,
)
from vtl.report.canvas import Stroke, strokes
from vtl.report.compare import DataSet
from vtl.report.language import Language
from vtl.report.rejection import PROTOCOL
from vtl.report.runs import Run
from vtl.report.tables import Cell, Table

CONFIG_FILES = {"probe": "linear_probe"}
"""Task -> the name of its config file, if it is another."""

NUM_CONFUSIONS = 15

MAX_NAMED = 6
"""Runs that the title names; of more it gives the number."""

MAPS = tuple(f"{role}_map_{PROTOCOL}" for role in ("val", "test"))
"""The keys of metrics.jsonl that hold the mAP by epoch."""


def environment() -> jinja2.Environment:
    """Where the templates are, and how their values are escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("vtl.report", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def make(
    runs: Sequence[Run],
    refused: Sequence[str],
    command: str,
    language: Language,
    *,
    with_answers: bool = True,
) -> str:
    """The page as HTML; `refused` is one line about each directory that is left out."""
    data_sets = compare.by_data_set(runs)
    styles = strokes(run.name for run in runs if run.scores)
    studies = [run for run in runs if run.task == "relu_study"]
    label_curves = [run for run in runs if run.task == "learning_curve"]
    with_answers &= len(label_curves) < len(runs)
    largest = max(data_sets, key=lambda data_set: len(data_set.runs), default=None)
    answered_from = ""
    if largest and len(data_sets) > 1:
        answered_from = summary.data_set_title(largest, language)
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            say=language,
            title=language("title", names=_names(runs, language)),
            made_by=language("made_by", command=command, version=vtl.__version__),
            refused=refused,
            headlines=[summary.headline(data_set, language) for data_set in data_sets],
            summaries=[summary.of_data_set(data_set, language) for data_set in data_sets],
            low_shots=[of for run in runs if (of := low_shot.section(run, language))],
            label_curves=[learning_curve.section(run, language) for run in label_curves],
            studies=[summary.of_study(run, language) for run in studies],
            curves=[_curves(data_set, styles, language) for data_set in data_sets],
            classes=[_classes(data_set, styles, language) for data_set in data_sets],
            galleries=[_gallery(data_set, language) for data_set in data_sets],
            answered_from=answered_from,
            answers=answers.all_answers(runs, largest, styles, language) if with_answers else [],
            warnings=_warnings(runs, data_sets, language),
            facts=[_facts(run, language) for run in runs],
        )
    )


def _names(runs: Sequence[Run], language: Language) -> str:
    if len(runs) > MAX_NAMED:
        return language("num_runs", count=language.number(len(runs), 0))
    return ", ".join(run.name for run in runs)


def _curves(data_set: DataSet, styles: dict[str, Stroke], language: Language) -> dict[str, Any]:
    """A figure for each quantity that any run recorded; the mAP has one for each split."""
    drawn = []
    for quantity in ("loss", "binary_accuracy", *MAPS, "learning_rate"):
        scale = 1 if quantity in ("loss", "learning_rate") else 100
        lines = {
            run.name: points for run in data_set.runs if (points := _points(run, quantity, scale))
        }
        if lines:
            key = "map" if quantity in MAPS else quantity
            title = language(f"figure_{key}", split=quantity.partition("_")[0])
            labels = figures.Labels(title, language("axis_epoch"), language(f"axis_{key}"))
            drawn.append(figures.curve(lines, styles, labels, language))
    return {
        "title": summary.data_set_title(data_set, language),
        "legend": _legend(data_set, styles),
        "figures": drawn,
        "note": _always_no(data_set, language),
    }


def _always_no(data_set: DataSet, language: Language) -> Markup:
    """The binary accuracy of answering no for every class, which any network should beat."""
    run = next((run for run in data_set.runs if "train" in run.scores), data_set.first)
    role = "train" if "train" in run.scores else run.headline_split
    scores = run.scores[role]
    share = 1 - float(np.sum(scores.labels) / max(1, np.sum(scores.is_known)))
    return language("always_no", share=language.percent(share), split=role)


def _points(run: Run, quantity: str, scale: float) -> list[tuple[float, float]]:
    """Points (epoch, scale * value), without values that are null because they were not finite."""
    lines = (line for line in run.metrics if line.get(quantity) is not None)
    return [(line["epoch"], scale * line[quantity]) for line in lines]


def _legend(data_set: DataSet, styles: dict[str, Stroke]) -> list[tuple[str, Stroke]]:
    return [(run.name, styles[run.name]) for run in data_set.runs]


def _classes(data_set: DataSet, styles: dict[str, Stroke], language: Language) -> dict[str, Any]:
    best = data_set.best
    ap = best.headline_result("ap")[PROTOCOL]
    classes = sorted(best.classes, key=lambda name: -(ap[name] or -1))
    labels = best.headline_scores.labels
    drawn = classes[: figures.MAX_CLASSES]
    num_left_out = figures.num_left_out(classes)
    columns = sorted(map(best.classes.index, drawn))
    return {
        "title": summary.data_set_title(data_set, language),
        "legend": _legend(data_set, styles),
        "figure": figures.class_precisions(data_set, styles, drawn, language),
        "table": _class_table(data_set, classes, language),
        "answers": thresholds.section(best, language),
        "precision_recall": [
            figures.precision_recall(data_set, column, styles, language)
            for column in map(best.classes.index, drawn)
            if labels[:, column].any()
        ],
        "together": figures.co_occurrence(
            labels[:, columns],
            best.headline_scores.is_known[:, columns],
            [best.classes[column] for column in columns],
            language,
        ),
        "left_out": language("photos_left_out", count=num_left_out) if num_left_out else "",
        "confusions_note": language("mistaken_note", run=best.name),
        "confusions": _confusion_table(best, language),
    }


def _class_table(data_set: DataSet, classes: Sequence[str], language: Language) -> Table:
    """One row a class: its positives, and its AP in every run."""
    positives = data_set.best.headline_result("positives")
    names = (run.name for run in data_set.runs)
    headings = [language("column_class"), language("column_positives"), *names]
    rows = []
    for name in classes:
        row = [Cell(name), Cell(language.number(positives[name], 0), positives[name])]
        for run in data_set.runs:
            value = run.headline_result("ap")[PROTOCOL][name]
            interval = run.headline_result("ap_interval")[PROTOCOL][name]
            row.append(Cell(language.estimate(value, interval), -1 if value is None else value))
        rows.append(row)
    return Table(headings, rows)


def confusions(run: Run) -> list[tuple[str, str, int, float]]:
    """(class predicted, class present, photos, share of false alarms), the most photos first.

    If n photos show a class, its n best-scored photos count as predicted. The false alarms are
    those of them that do not show the class and are not difficult.
    """
    split, classes, pairs = run.headline_scores, run.classes, []
    for column, predicted in enumerate(classes):
        is_positive = split.labels[:, column] == 1
        best_scored = _best(
            split.ranked_by[:, column], split.is_known[:, column], is_positive.sum()
        )
        is_false = ~is_positive[best_scored]
        if split.difficult is not None:
            is_false &= split.difficult[best_scored, column] == 0
        alarms = best_scored[is_false]
        counts = split.labels[alarms].sum(axis=0)
        for other in np.flatnonzero(counts):
            count = int(counts[other])
            pairs.append((predicted, classes[other], count, count / len(alarms)))
    return sorted(pairs, key=lambda pair: -pair[2])


def _best(ranked_by: np.ndarray, is_known: np.ndarray, number: int) -> np.ndarray:
    """The rows [number] with the highest of ranked_by [N] that are known, the first of equal ones.

    Only those that reach the last one's value are sorted.
    """
    if not number:
        return np.zeros(0, int)
    rows = np.flatnonzero(is_known)
    lowest = np.partition(ranked_by[rows], -number)[-number]
    rows = rows[ranked_by[rows] >= lowest]
    return rows[np.argsort(-ranked_by[rows], kind="stable")][:number]


def _confusion_table(run: Run, language: Language) -> Table | None:
    rows = [
        [
            Cell(predicted),
            Cell(present),
            Cell(language.number(count, 0), count),
            Cell(language.percent(share, 0), share),
        ]
        for predicted, present, count, share in confusions(run)[:NUM_CONFUSIONS]
    ]
    headings = [language(f"column_{name}") for name in ("seen", "there", "count", "share")]
    return Table(headings, rows) if rows else None


def _gallery(data_set: DataSet, language: Language) -> dict[str, Any]:
    """The pictures of the best run that has a gallery."""
    section = {"title": summary.data_set_title(data_set, language), "classes": [], "left_out": ""}
    with_gallery = [run for run in data_set.runs if run.gallery]
    if not with_gallery:
        command = "vtl finetune"
        return section | {"note": language("photos_missing", command=command)}
    run = DataSet(with_gallery).best
    classes, num_left_out = photos.by_class(run, language)
    if num_left_out:
        section["left_out"] = language("photos_left_out", count=num_left_out)
    note = language("photos_note", run=run.name, split=run.headline_split)
    maps = language("maps_exact" if run.has_exact_maps else "maps_approximate")
    return section | {"note": note + " " + maps, "classes": classes}


def _warnings(
    runs: Sequence[Run], data_sets: Sequence[DataSet], language: Language
) -> list[tuple[str, Markup]]:
    """(run or data set, warning) pairs."""
    findings = [finding for run in runs for finding in trust.of_run(run)]
    for data_set in data_sets:
        findings += trust.of_comparison(data_set)
    warnings = []
    for finding in findings:
        values = {name: language.value(value) for name, value in finding.values.items()}
        subject = language.data_set(finding.subject)
        warnings.append((subject, language(finding.key, **values)))
    return warnings


def _facts(run: Run, language: Language) -> dict[str, Any]:
    """How a run was made: (name, value) pairs, and its config."""
    results = run.results
    config = f"configs/{CONFIG_FILES.get(run.task, run.task)}.py"
    variant = results.get("variant")
    facts = [(language("fact_command"), config + (f":{variant}" if variant else ""))]
    weights = results.get("weights")
    if weights:
        named = f"{weights.get('name') or '–'}, sha256 {weights.get('sha256') or '–'}"
        facts.append((language("fact_weights"), named))
        facts.append((language("fact_preprocessing"), json.dumps(weights.get("preprocessing"))))
    if run.special_head:
        facts.append((language("fact_head"), json.dumps(run.special_head)))
    if results.get("chosen_mix", 1) < 1:
        facts.append((language("fact_mix"), language.percent(results["chosen_mix"])))
    if results.get("features"):
        file = f"{results['features']}, sha256 {results.get('features_sha256') or '–'}"
        facts.append((language("fact_features"), file))
    data = results.get("data") or {}
    if data:
        splits = ", ".join(f"{role} = {name}" for role, name in data.get("splits", {}).items())
        facts.append((language("fact_data"), f"{data.get('name') or '–'} {splits}".rstrip()))
    for what, key in (("ids", "ids_sha256"), ("digits", "sha256")):
        hashes = data.get(key) or {}
        facts += [(language(f"fact_{what}", role=role), value) for role, value in hashes.items()]
    versions = (f"{name} {version}" for name, version in results["versions"].items())
    facts.append((language("fact_versions"), ", ".join(versions)))
    facts.append((language("fact_devices"), ", ".join(results["devices"])))
    facts.append((language("fact_commit"), results.get("commit") or "–"))
    return {"name": run.name, "facts": facts, "config": json.dumps(run.config, indent=1)}
