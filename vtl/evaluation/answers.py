"""How good the answers are: precision, recall and F1 at the thresholds, and each wrong photo."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from vtl.decisions import HALF
from vtl.evaluation.resampling import (
    draw_resamples,
    interval_of,
    mean_over_classes,
    once,
    sums_by_class,
)
from vtl.untrusted import no_formula, printable

QUANTITIES = ("precision", "recall", "f1")
ERROR_COLUMNS = ("file", "class", "error", "probability", "threshold")


def evaluate(
    given: np.ndarray,
    labels: np.ndarray,
    label_mask: np.ndarray,
    classes: Sequence[str],
    *,
    baseline: np.ndarray | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Precision, recall and F1 of answers `given` [N, C] with 95 % intervals, ready for json.dumps.

    labels and label_mask [N, C]; what the mask leaves out counts neither way. `by_class` has each
    class's, None where it has no positive, or no answer for a precision. `macro` is the mean over
    classes with a positive, in which a class without an answer has a precision of 0, as in
    scikit-learn; `micro` counts all answers together. With `baseline`, other answers [N, C], the
    key `macro_f1_gain` is the macro F1 above theirs. Intervals are percentiles of a bootstrap over
    images.
    """
    table_of_given = _table(given, labels, label_mask)
    table_of_baseline = None if baseline is None else _table(baseline, labels, label_mask)

    def table(counts: np.ndarray) -> dict[str, np.ndarray]:
        of_given = table_of_given(counts)
        if table_of_baseline is not None:
            of_given["macro_f1_gain"] = of_given["macro_f1"] - table_of_baseline(counts)["macro_f1"]
        return of_given

    resamples = draw_resamples(len(labels), num_resamples, seed)
    tables = [table(counts) for counts in (once(len(labels)), *resamples)]
    found = {name: np.concatenate([each[name] for each in tables], axis=-1) for name in tables[0]}
    result: dict[str, Any] = {
        "by_class": {
            name: {q: _estimate(found[q][column]) for q in QUANTITIES}
            for column, name in enumerate(classes)
        },
        **{
            mean: {q: _estimate(found[f"{mean}_{q}"]) for q in QUANTITIES}
            for mean in ("macro", "micro")
        },
    }
    if baseline is not None:
        result["macro_f1_gain"] = _estimate(found["macro_f1_gain"])
    return result


def _estimate(samples: np.ndarray) -> dict[str, Any]:
    """The value, which is the first of samples [1 + R], and the interval of the others."""
    value = float(samples[0])
    if not np.isfinite(value):
        return {"value": None, "interval": None}
    return {"value": value, "interval": interval_of(samples[1:])}


def _table(
    given: np.ndarray, labels: np.ndarray, label_mask: np.ndarray
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The function from counts [N, R] to each quantity by class [C, R], and macro and micro [R]."""
    sums = [
        sums_by_class(flags * label_mask) for flags in (given & (labels == 1), given, labels == 1)
    ]

    def table(counts: np.ndarray) -> dict[str, np.ndarray]:
        hits, answers, positives = (sum_of(counts) for sum_of in sums)
        exists = np.where(positives > 0, 1.0, np.nan)
        by_class = {
            "precision": hits / np.maximum(answers, 1) * exists,
            "recall": hits / np.maximum(positives, 1) * exists,
            "f1": 2 * hits / np.maximum(answers + positives, 1) * exists,
        }
        macro = {f"macro_{name}": mean_over_classes(values) for name, values in by_class.items()}
        by_class["precision"] = np.where(answers > 0, by_class["precision"], np.nan)
        hits, answers, positives = (total.sum(axis=0) for total in (hits, answers, positives))
        micro = {
            "micro_precision": hits / np.maximum(answers, 1),
            "micro_recall": hits / np.maximum(positives, 1),
            "micro_f1": 2 * hits / np.maximum(answers + positives, 1),
        }
        return by_class | macro | micro

    return table


def errors_csv(
    ids: Sequence[str],
    classes: Sequence[str],
    probabilities: np.ndarray,
    thresholds: Sequence[float],
    given: np.ndarray,
    labels: np.ndarray,
    label_mask: np.ndarray,
) -> str:
    """A row a wrong answer: by class, the most confident first; probabilities [N, C] and the rest.

    A class that was missed is the more confident the lower its probability.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(ERROR_COLUMNS)
    is_wrong = (given != (labels == 1)) & (label_mask == 1)
    for column, name in enumerate(classes):
        rows = np.flatnonzero(is_wrong[:, column])
        p, is_missed = probabilities[rows, column], labels[rows, column] == 1
        for place in np.argsort(-np.where(is_missed, 1 - p, p), kind="stable"):
            error = "missed" if is_missed[place] else "false alarm"
            shown = f"{p[place]:.4f}", f"{thresholds[column]:.4f}"
            writer.writerow((no_formula(ids[rows[place]]), no_formula(name), error, *shown))
    return text.getvalue()


def format_lines(results: dict[str, Any], role: str, classes: Sequence[str]) -> Iterator[str]:
    """The table of a run's answers on `role`, from what results.json holds."""
    found, chosen = results["answers"][role], results.get("decisions")
    one_label_each = "one_label" in results
    yield f"answers on {role}, {_how(chosen, one_label_each)}; percent [95 % interval]"
    rows = [["class", "threshold", *QUANTITIES]]
    by_class = (chosen or {}).get("by_class", {})
    unchosen = {"threshold": 0.0 if one_label_each else HALF, "interval": None, "note": ""}
    for name in (name for name in classes if name in found["by_class"]):
        threshold = _threshold(by_class.get(name, unchosen))
        rows.append([printable(name, 40), threshold, *_cells(found["by_class"][name])])
    rows += [[mean, "", *_cells(found[mean])] for mean in ("macro", "micro")]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip()
    yield from (f"* {note}: {', '.join(names)}" for note, names in notes(by_class).items())
    if not found.get("is_unseen", True):
        yield f"these answers were chosen on {role}, or it was trained on: expect worse elsewhere"
    if "macro_f1_gain" in found and chosen:
        gain = _points(found["macro_f1_gain"])
        yield f"macro F1 above that of 0.5 for every class before calibration: {gain}"
    before, after = found["before_calibration"], found.get("after_calibration")
    if after and None not in (*before.values(), *after.values()):
        yield (
            f"calibration: Brier score {before['brier']:.4f} before, {after['brier']:.4f} after; "
            f"distance of probabilities from frequencies {before['reliability']:.5f}, "
            f"{after['reliability']:.5f}"
        )


def notes(by_class: dict[str, Any]) -> dict[str, list[str]]:
    """What there is to say of some thresholds -> the classes that it is of."""
    found: dict[str, list[str]] = {}
    for name, entry in by_class.items():
        if entry["note"]:
            found.setdefault(entry["note"], []).append(printable(name, 40))
    return found


def _how(chosen: dict[str, Any] | None, one_label_each: bool) -> str:
    if chosen:
        return f"thresholds by {chosen['rule']}, chosen on {printable(chosen['chosen_on'], 200)}"
    what = "the likeliest class" if one_label_each else "thresholds 0.5"
    return f"{what}: there are no scores of photos not trained on to choose by"


def _threshold(entry: dict[str, Any]) -> str:
    mark = "*" if entry["note"] else ""
    if entry["interval"] is None:
        return f"{entry['threshold']:.3f}{mark}"
    low, high = entry["interval"]
    return f"{entry['threshold']:.3f} [{low:.3f}, {high:.3f}]{mark}"


def _cells(found: dict[str, Any]) -> list[str]:
    return [_percent(found[quantity]) for quantity in QUANTITIES]


def _percent(estimate: dict[str, Any]) -> str:
    value, interval = estimate["value"], estimate["interval"]
    if value is None:
        return "-"
    if interval is None:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _points(estimate: dict[str, Any]) -> str:
    value, interval = estimate["value"], estimate["interval"]
    if value is None:
        return "-"
    shown = f"{100 * value:+.1f}"
    return (
        shown
        if interval is None
        else (f"{shown} [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]")
    )
