"""Runs -> one HTML page that needs nothing else."""

import json
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

import vtl
from vtl.evaluation import metrics
from vtl.relu_study.conclusion import NETWORK_TITLES, title
from vtl.report import answers, compare, figures, photos, trust
from vtl.report.compare import PROTOCOL, DataSet
from vtl.report.language import Language
from vtl.report.runs import Run
from vtl.report.tables import Cell, Table

NUM_MISTAKEN = 15
MAPS = tuple(f"{role}_map_{PROTOCOL}" for role in ("val", "test"))
"""The metrics that have the mAP by epoch."""


def make(runs: Sequence[Run], refused: Sequence[str], command: str, language: Language) -> str:
    """The page; `refused` is a line on each directory that is left out."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vtl.report", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data_sets = compare.by_data_set(runs)
    styles = figures.strokes(run.name for run in runs if run.scores)
    studies = [run for run in runs if run.task == "relu_study"]
    main = max(data_sets, key=lambda data_set: len(data_set.runs), default=None)
    return environment.get_template("page.html.jinja").render(
        say=language,
        title=language("title", names=", ".join(run.name for run in runs)),
        made_by=language("made_by", command=command, version=vtl.__version__),
        refused=refused,
        headlines=[_headline(data_set, language) for data_set in data_sets],
        summaries=[_summary(data_set, language) for data_set in data_sets],
        studies=[_study(run, language) for run in studies],
        curves=[_curves(data_set, styles, language) for data_set in data_sets],
        classes=[_classes(data_set, styles, language) for data_set in data_sets],
        galleries=[_gallery(data_set, language) for data_set in data_sets],
        answered_from=_data_set_title(main, language) if main and len(data_sets) > 1 else "",
        answers=answers.all_answers(runs, main, styles, language),
        warnings=_warnings(runs, data_sets, language),
        facts=[_facts(run, language) for run in runs],
    )


def _headline(data_set: DataSet, language: Language) -> Markup:
    """The run of the highest mAP, and what it can't be told from."""
    best = data_set.best
    means, intervals = best.of_shown("map"), best.of_shown("map_interval")
    others = [
        run.name
        for run in data_set.runs
        if run is not best and (of := compare.difference(best, run)) and of.verdict == "tie"
    ]
    return language(
        "headline_tied" if others else "headline_best" if data_set.runs[1:] else "headline_alone",
        name=language.data_set(data_set.name),
        run=best.name,
        others=language.listing(others) if others else "",
        mean=language.estimate(means[PROTOCOL], intervals[PROTOCOL]),
        split=best.role,
        protocol=PROTOCOL,
    )


def _data_set_title(data_set: DataSet, language: Language) -> Markup:
    first = data_set.first
    return language(
        "data_set",
        name=language.data_set(data_set.name),
        count=language.number(len(first.shown.scores), 0),
        split=first.role,
        classes=len(first.classes),
    )


def _summary(data_set: DataSet, language: Language) -> dict[str, Any]:
    protocols = list(metrics.PROTOCOLS)
    columns = ["run", "regime", "weights", "photos"]
    headings = [language(f"column_{name}") for name in columns]
    headings += [language("column_map", protocol=name) for name in protocols]
    headings.append(language("column_train_map", protocol=PROTOCOL))
    columns = ["parameters", "rate", "time", "seed", "commit"]
    headings += [language(f"column_{name}") for name in columns]
    marked = data_set.best if data_set.runs[1:] else None
    rows = [_summary_row(run, run is marked, protocols, language) for run in data_set.runs]
    return {
        "title": _data_set_title(data_set, language),
        "table": Table(headings, rows),
        "published": _published(data_set, language),
    }


def _summary_row(
    run: Run, is_best: bool, protocols: Sequence[str], language: Language
) -> list[Cell]:
    results = run.results
    name = Markup("<strong>{}</strong> ★ {}").format(run.name, language("best"))
    weights = results.get("weights")
    trained_on = results["num_images"].get("train", 0)
    train = results["map"].get("train", {}).get(PROTOCOL)
    seconds = results["seconds"]
    total = seconds.get("total", sum(seconds.values()))
    rate = results.get("images_per_second")
    commit = results.get("commit") or "–"
    means, intervals = run.of_shown("map"), run.of_shown("map_interval")
    return [
        Cell(name if is_best else run.name),
        Cell(language(f"regime_{run.regime}")),
        Cell(weights.get("name") or "–" if weights else language(_no_weights(run))),
        Cell(language.number(trained_on, 0), trained_on),
        *(Cell(language.estimate(means[p], intervals[p]), means[p] or -1) for p in protocols),
        Cell(language.percent(train), -1 if train is None else train),
        Cell(language.number(results["trainable_parameters"], 0), results["trainable_parameters"]),
        Cell(language.number(rate) if rate else "–", rate or -1),
        Cell(language.seconds(total), total),
        Cell(results["seed"], results["seed"]),
        Cell(commit[:7] + ("-dirty" if commit.endswith("-dirty") else "")),
    ]


def _no_weights(run: Run) -> str:
    """From random, or by features of which it isn't known."""
    return "no_weights" if run.task == "finetune" else "unknown"


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


def _study(run: Run, language: Language) -> dict[str, Any]:
    thresholds = [f"{threshold:g}" for threshold in run.config["thresholds"]]
    names = ("network", "activation", "learning_rate")
    headings = [language(f"column_{name}") for name in names]
    headings += [Markup(f"{100 * float(threshold):g} %") for threshold in thresholds]
    headings += [language(f"column_{name}") for name in ("lowest_loss", "test_accuracy")]
    rows = []
    for network, of in run.results["networks"].items():
        for activation, found in of["activations"].items():
            row = [Cell(NETWORK_TITLES[network]), Cell(title(activation))]
            if found["status"] == "diverged":
                gone = Cell(language("study_all_diverged"), -1)
                rows.append(row + [gone] * (len(headings) - len(row)))
                continue
            row.append(
                Cell(language.decimal(f"{found['learning_rate']:g}"), found["learning_rate"])
            )
            reached = [found["epochs_to_accuracy"][threshold] for threshold in thresholds]
            for times in (*reached, found["epochs_to_lowest_loss"]):
                median = of["num_epochs"] + 1 if times["median"] is None else times["median"]
                row.append(Cell(_estimate(times["text"], language), median))
            accuracy = found["test_accuracy"]["median"]
            row.append(Cell(f"{language.percent(accuracy, 2)} %", accuracy))
            rows.append(row)
    return {
        "title": language("study", name=run.name),
        "note": language("study_note", seeds=len(run.config["seeds"])),
        "table": Table(headings, rows),
    }


def _estimate(text: str, language: Language) -> str:
    """`3.1 [2.8, 3.4]`, as results.json has it, in the page's language."""
    value, low, high = text.replace("[", "").replace("]", "").replace(",", "").split()
    return language.bracketed(*(language.decimal(part) for part in (value, low, high)))


def _curves(
    data_set: DataSet, styles: dict[str, figures.Stroke], language: Language
) -> dict[str, Any]:
    """A figure for each quantity that any run has recorded; of mAP one for each split."""
    drawn = []
    for quantity in ("loss", "binary_accuracy", *MAPS, "learning_rate"):
        scale = 1 if quantity in ("loss", "learning_rate") else 100
        lines = {
            run.name: points for run in data_set.runs if (points := _points(run, quantity, scale))
        }
        if lines:
            what = "map" if quantity in MAPS else quantity
            name = language(f"figure_{what}", split=quantity.partition("_")[0])
            words = (name, language("axis_epoch"), language(f"axis_{what}"))
            drawn.append(figures.curve(lines, styles, words, language))
    return {
        "title": _data_set_title(data_set, language),
        "legend": _legend(data_set, styles),
        "figures": drawn,
        "note": _always_no(data_set, language),
    }


def _always_no(data_set: DataSet, language: Language) -> Markup:
    """What binary accuracy is worth nothing: that of answering no to every class."""
    run = next((run for run in data_set.runs if "train" in run.scores), data_set.first)
    role = "train" if "train" in run.scores else run.role
    share = 1 - float(np.mean(run.scores[role].labels))
    return language("always_no", share=language.percent(share), split=role)


def _points(run: Run, quantity: str, scale: float) -> list[tuple[float, float]]:
    """(epoch, value); a value that isn't finite is null in metrics.jsonl, and no point."""
    lines = (line for line in run.metrics if line.get(quantity) is not None)
    return [(line["epoch"], scale * line[quantity]) for line in lines]


def _legend(
    data_set: DataSet, styles: dict[str, figures.Stroke]
) -> list[tuple[str, figures.Stroke]]:
    return [(run.name, styles[run.name]) for run in data_set.runs]


def _classes(
    data_set: DataSet, styles: dict[str, figures.Stroke], language: Language
) -> dict[str, Any]:
    best, runs = data_set.best, data_set.runs
    ap = best.of_shown("ap")[PROTOCOL]
    classes = sorted(best.classes, key=lambda name: -(ap[name] or -1))
    positives = best.of_shown("positives")
    rows = []
    for name in classes:
        row = [Cell(name), Cell(language.number(positives[name], 0), positives[name])]
        for run in runs:
            value, interval = (run.of_shown(q)[PROTOCOL][name] for q in ("ap", "ap_interval"))
            row.append(Cell(language.estimate(value, interval), -1 if value is None else value))
        rows.append(row)
    headings = [language("column_class"), language("column_positives"), *(r.name for r in runs)]
    labels = best.shown.labels
    return {
        "title": _data_set_title(data_set, language),
        "legend": _legend(data_set, styles),
        "figure": figures.class_precisions(data_set, styles, classes, language),
        "table": Table(headings, rows),
        "precision_recall": [
            figures.precision_recall(data_set, column, styles, language)
            for column in np.argsort([classes.index(name) for name in best.classes])
            if labels[:, column].any()
        ],
        "together": figures.together(labels, best.classes, language),
        "mistaken_note": language("mistaken_note", run=best.name),
        "mistaken": _mistaken(best, language),
    }


def mistaken(run: Run) -> list[tuple[str, str, int, float]]:
    """(class seen, class really there, photos, share of its false alarms), the most photos first.

    Of each class as many photos are taken as have it, the best-scored; the false alarms are those
    without it that are not difficult.
    """
    shown, pairs = run.shown, []
    for column, seen in enumerate(run.classes):
        is_positive = shown.labels[:, column] == 1
        taken = np.argsort(-shown.ranked_by[:, column], kind="stable")[: is_positive.sum()]
        is_false = ~is_positive[taken]
        if shown.difficult is not None:
            is_false &= shown.difficult[taken, column] == 0
        alarms = taken[is_false]
        for other, there in enumerate(run.classes):
            count = int(shown.labels[alarms, other].sum())
            if count:
                pairs.append((seen, there, count, count / len(alarms)))
    return sorted(pairs, key=lambda pair: -pair[2])


def _mistaken(run: Run, language: Language) -> Table | None:
    rows = [
        [
            Cell(seen),
            Cell(there),
            Cell(language.number(count, 0), count),
            Cell(language.percent(share, 0), share),
        ]
        for seen, there, count, share in mistaken(run)[:NUM_MISTAKEN]
    ]
    headings = [language(f"column_{name}") for name in ("seen", "there", "count", "share")]
    return Table(headings, rows) if rows else None


def _gallery(data_set: DataSet, language: Language) -> dict[str, Any]:
    """The pictures of the best run that has any."""
    made = {"title": _data_set_title(data_set, language), "classes": [], "left_out": ""}
    with_gallery = [run for run in data_set.runs if run.gallery]
    if not with_gallery:
        command = "python -m vtl.main --config=configs/finetune.py"
        return made | {"note": language("photos_missing", command=command)}
    run = DataSet(with_gallery).best
    shown, left_out = photos.by_class(run)
    if left_out:
        made["left_out"] = language("photos_left_out", count=left_out)
    note = language("photos_note", run=run.name, split=run.role)
    return made | {"note": note, "classes": shown}


def _warnings(
    runs: Sequence[Run], data_sets: Sequence[DataSet], language: Language
) -> list[tuple[str, Markup]]:
    found = [warning for run in runs for warning in trust.of_run(run)]
    found += [warning for data_set in data_sets for warning in trust.of_comparison(data_set)]

    def written(value: Any) -> Any:
        if value is None:
            return "–"
        if isinstance(value, float):
            return language.percent(value)
        return language.number(value, 0) if isinstance(value, int) else value

    return [
        (
            language.data_set(warning.run),
            language(warning.key, **{k: written(v) for k, v in warning.values.items()}),
        )
        for warning in found
    ]


def _facts(run: Run, language: Language) -> dict[str, Any]:
    """What the run was made of: (what, value) pairs and its config."""
    results = run.results
    config = f"configs/{CONFIG_FILES[run.task]}.py"
    variant = results.get("variant")
    facts = [(language("fact_command"), config + (f":{variant}" if variant else ""))]
    weights = results.get("weights")
    if weights:
        named = f"{weights.get('name') or '–'}, sha256 {weights.get('sha256') or '–'}"
        facts.append((language("fact_weights"), named))
        facts.append((language("fact_preprocessing"), json.dumps(weights.get("preprocessing"))))
    if results.get("features"):
        where = f"{results['features']}, sha256 {results.get('features_sha256') or '–'}"
        facts.append((language("fact_features"), where))
    data = results.get("data") or {}
    if data:
        splits = ", ".join(f"{role} = {name}" for role, name in data.get("splits", {}).items())
        facts.append((language("fact_data"), f"{data.get('name') or '–'} {splits}".rstrip()))
    hashes = data.get("ids_sha256") or data.get("sha256") or {}
    facts += [(language("fact_ids", role=role), value) for role, value in hashes.items()]
    versions = (f"{name} {version}" for name, version in results["versions"].items())
    facts.append((language("fact_versions"), ", ".join(versions)))
    facts.append((language("fact_devices"), ", ".join(results["devices"])))
    facts.append((language("fact_commit"), results.get("commit") or "–"))
    return {"name": run.name, "facts": facts, "config": json.dumps(run.config, indent=1)}


CONFIG_FILES = {"finetune": "finetune", "probe": "linear_probe", "relu_study": "relu_study"}
