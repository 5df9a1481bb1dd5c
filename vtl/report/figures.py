"""The page's figures, each one <svg>.

A run keeps its stroke, one of Okabe and Ito's colours, in all figures.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from vtl.evaluation import metrics
from vtl.relu_study import conclusion
from vtl.report.canvas import COLOURS, INK, Stroke, open_canvas, strokes
from vtl.report.compare import DataSet, Difference
from vtl.report.language import Language
from vtl.report.rejection import PROTOCOL
from vtl.report.runs import Run
from vtl.untrusted import printable

MAX_POINTS = 150
"""The most points of a curve; a longer one is averaged."""

MAX_CLASSES = 100
"""The most classes in figures: each takes time, and pairs of classes grow with the square."""

MAX_NAME = 40
"""The most characters of a name in a figure."""


def num_left_out(classes: Sequence[str]) -> int:
    """How many of a run's classes have no place in a figure."""
    return max(0, len(classes) - MAX_CLASSES)


class Labels(NamedTuple):
    """The words around a figure."""

    title: str
    x_axis: str
    y_axis: str


def curve(
    lines: Mapping[str, list[tuple[float, float]]],
    styles: Mapping[str, Stroke],
    labels: Labels,
    language: Language,
) -> Markup:
    """A line through (x, y) points for each name."""
    with open_canvas(labels.title, language, 4.4, 2.7) as canvas:
        for index, (name, points) in enumerate(lines.items()):
            xs, ys = _thinned(np.array(points, np.float64)).T
            colour, dashes = styles[name]
            # Earlier lines are wider, so that they show under later ones that coincide with them.
            width = 1.4 + 0.7 * (len(lines) - 1 - index)
            marker = "." if len(xs) < 30 else ""
            canvas.axes.plot(xs, ys, dashes, color=colour, marker=marker, lw=min(width, 4))
        canvas.axes.set(xlabel=labels.x_axis, ylabel=labels.y_axis)
    return canvas.svg


def _short(name: str) -> str:
    """A name short enough to leave room for the figure."""
    return printable(name, MAX_NAME)


def _thinned(points: np.ndarray) -> np.ndarray:
    """Points [N, 2] as they are, or the means of neighbours, at most MAX_POINTS of them."""
    size = -(-len(points) // MAX_POINTS)
    return np.array([points[i : i + size].mean(axis=0) for i in range(0, len(points), size)])


def class_precisions(
    data_set: DataSet, styles: Mapping[str, Stroke], classes: Sequence[str], language: Language
) -> Markup:
    """The AP of each class with its interval for every run, the first of `classes` on top."""
    runs = data_set.runs
    height = 0.8 + len(classes) * max(0.2, 0.11 * len(runs))
    title = language("figure_classes", protocol=PROTOCOL)
    with open_canvas(title, language, 4.4, height) as canvas:
        for index, run in enumerate(runs):
            ap = run.headline_result("ap")[PROTOCOL]
            intervals = run.headline_result("ap_interval")[PROTOCOL]
            colour, dashes = styles[run.name]
            for row, name in enumerate(classes):
                if ap[name] is None:
                    continue
                y = row + 0.7 * ((index + 0.5) / len(runs) - 0.5)
                low, high = intervals[name] or (ap[name], ap[name])
                canvas.axes.plot([100 * low, 100 * high], [y, y], dashes, color=colour, lw=1.1)
                canvas.axes.plot(100 * ap[name], y, ".", color=colour, ms=6, clip_on=False)
        canvas.axes.set(ylim=(len(classes) - 0.4, -0.6), xlim=(0, 100))
        canvas.axes.set_yticks(range(len(classes)), map(_short, classes))
        canvas.axes.set_xlabel(language("axis_ap"))
        canvas.axes.grid(axis="y", visible=False)
    return canvas.svg


def precision_recall(
    data_set: DataSet, column: int, styles: Mapping[str, Stroke], language: Language
) -> Markup:
    """Precision against recall for one class, a line for each run."""
    title = _short(data_set.first.classes[column])
    label = f"{language('precision_recall')}: {title}"
    with open_canvas(title, language, 2.0, 1.9, label) as canvas:
        for run in data_set.runs:
            scores = run.headline_scores
            is_known = scores.is_known[:, column]
            labels = scores.labels[is_known, column]
            ranked_by = scores.ranked_by[is_known, column]
            precision, recall = metrics.precision_recall(ranked_by, labels)
            rows = evenly_spaced(recall, 60)
            colour, dashes = styles[run.name]
            canvas.axes.plot(recall[rows], precision[rows], dashes, color=colour, linewidth=1.2)
        canvas.axes.set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        canvas.axes.set_xlabel(language("axis_recall"), fontsize=8)
        canvas.axes.set_ylabel(language("axis_precision"), fontsize=8)
    return canvas.svg


def evenly_spaced(recall: np.ndarray, count: int) -> np.ndarray:
    """The rows of a falling recall [N] to draw.

    These are the first and the last row of at most `count` of its values, evenly spaced, so that
    the jumps of precision between them stay.
    """
    last = np.append(np.flatnonzero(np.diff(recall)), len(recall) - 1)
    first = np.append(0, last[:-1] + 1)
    kept = np.unique(np.linspace(0, len(last) - 1, count).round().astype(int))
    return np.unique([first[kept], last[kept]])


def co_occurrence(
    labels: np.ndarray, is_known: np.ndarray, classes: Sequence[str], language: Language
) -> Markup:
    """Of the photos with one class (row), the percentage that also has another (column).

    Of a pair only photos count of which the other class is known.
    """
    counts = labels.T.astype(int) @ labels.astype(int)
    shares = 100 * counts / np.maximum(labels.T.astype(int) @ is_known.astype(int), 1)
    np.fill_diagonal(shares, np.nan)
    names = [_short(name) for name in classes]
    side = 1.4 + 0.17 * len(names) + 0.05 * max(map(len, names))
    with open_canvas(language("figure_together"), language, side + 0.7, side) as canvas:
        drawn = canvas.axes.pcolormesh(shares, cmap="cividis_r", edgecolors="face", linewidth=0.2)
        centres = np.arange(len(names)) + 0.5
        canvas.axes.set_xticks(centres, names, rotation=90)
        canvas.axes.set_yticks(centres, names)
        canvas.axes.set(xlabel=language("axis_also"), ylabel=language("axis_with"), aspect="equal")
        canvas.axes.invert_yaxis()
        canvas.axes.grid(visible=False)
        bar = canvas.axes.figure.colorbar(drawn, ax=canvas.axes, shrink=0.7)
        bar.set_label("%")
        bar.outline.set_visible(False)
    return canvas.svg


def scores_of_photo(
    classes: Sequence[str], values: Mapping[str, np.ndarray], language: Language
) -> Markup:
    """Bars of one photo's values [C] for each class, a colour for each name of `values`."""
    height = 0.9 + len(classes) * 0.11 * (1 + len(values))
    with open_canvas(language("figure_sigmoid"), language, 4.4, height) as canvas:
        for index, (name, numbers) in enumerate(values.items()):
            offset = 0.8 * ((index + 0.5) / len(values) - 0.5)
            canvas.axes.barh(
                np.arange(len(classes)) + offset,
                numbers,
                0.7 / len(values),
                color=COLOURS[index],
                label=name,
            )
        canvas.axes.set_yticks(range(len(classes)), map(_short, classes))
        canvas.axes.set(ylim=(len(classes) - 0.4, -0.6), xlabel=language("axis_score"))
        canvas.axes.grid(axis="y", visible=False)
        if len(values) > 1:
            canvas.axes.legend(frameon=False, fontsize=8)
    return canvas.svg


def differences(by_name: Mapping[str, Difference], language: Language) -> Markup:
    """Differences in mAP, in points, each with its interval, beside a line at zero."""
    title = language("figure_differences", protocol=PROTOCOL)
    with open_canvas(title, language, 4.4, 0.9 + 0.3 * len(by_name)) as canvas:
        for row, (value, low, high) in enumerate(by_name.values()):
            canvas.axes.plot([100 * low, 100 * high], [row, row], color=COLOURS[0])
            canvas.axes.plot(100 * value, row, "o", color=COLOURS[0], markersize=5)
        canvas.axes.axvline(0, color=INK, linewidth=0.8)
        canvas.axes.set_yticks(range(len(by_name)), map(_short, by_name))
        canvas.axes.set(ylim=(len(by_name) - 0.5, -0.5), xlabel=language("axis_difference"))
        canvas.axes.grid(axis="y", visible=False)
    return canvas.svg


def study_curves(run: Run, network: str, quantity: str, language: Language) -> Markup:
    """The median and range over seeds by epoch; `quantity` is error or gradients."""
    title = language(f"figure_{quantity}", network=conclusion.NETWORK_TITLES[network])
    activations = run.config["activations"]
    with open_canvas(title, language, 4.4, 2.7) as canvas:
        for activation, (colour, dashes) in strokes(activations).items():
            epochs, values = _by_epoch(run, network, activation, quantity)
            if not epochs:
                continue
            median = [np.median(by_seed) for by_seed in values]
            label = conclusion.title(activation)
            canvas.axes.plot(epochs, median, dashes, color=colour, label=label)
            low, high = [min(by_seed) for by_seed in values], [max(by_seed) for by_seed in values]
            canvas.axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
        canvas.axes.set(xlabel=language("axis_epoch"), ylabel=language(f"axis_{quantity}"))
        canvas.axes.set(xscale="log", yscale="log")
        if canvas.axes.lines:
            canvas.axes.legend(frameon=False, fontsize=8)
    return canvas.svg


def _by_epoch(
    run: Run, network: str, activation: str, quantity: str
) -> tuple[list[float], list[list[float]]]:
    """The epochs and, for each, the quantity of every seed; an error in percent."""
    by_epoch: dict[float, list[float]] = {}
    wanted = (network, activation, "final")
    for line in run.metrics:
        if (line["network"], line["activation"], line["phase"]) != wanted:
            continue
        if quantity == "gradients":
            norms = [value for key, value in line.items() if key.startswith("gradient_norms/")]
            value = None if None in norms else float(np.sqrt(np.sum(np.square(norms))))
        else:
            value = _error(line["accuracy"], run.config["data"]["num_held_out"])
        if value:
            by_epoch.setdefault(line["epoch"], []).append(value)
    stride = max(1, -(-len(by_epoch) // MAX_POINTS))
    kept = list(by_epoch.items())[::stride]
    return [epoch for epoch, _ in kept], [values for _, values in kept]


def _error(accuracy: float | None, num_held_out: int) -> float | None:
    """The error in percent; no error at all is half a photo, which a log axis can show."""
    return None if accuracy is None else max(100 * (1 - accuracy), 50 / num_held_out)


def label_curve(found: dict[str, Any], language: Language) -> Markup:
    """The mAP by labelled photos, with intervals; dashed, each law as far as it says something."""
    with open_canvas(language("figure_label_curve"), language, 4.4, 2.9) as canvas:
        photos = np.array(found["photos"], float)
        ticks = [*photos]
        for index, name in enumerate(name for name in ("probe", "fine_tuned") if name in found):
            of, colour, nudge = found[name], COLOURS[index], (0.985, 1.015)[index]
            means, intervals = 100 * np.array(of["map"]), 100 * np.array(of["map_interval"])
            canvas.axes.vlines(photos * nudge, *intervals.T, color=colour, lw=1.1)
            title = language(f"label_{name}")
            canvas.axes.plot(photos * nudge, means, "o", color=colour, ms=4, label=title)
            if of["twice"]["why_nothing"] is None:
                law = of["law"]
                places = photos[-1] * np.array(law["shares"])
                low, high = 100 * np.array(law["map_interval"]).T
                canvas.axes.plot(places, 100 * np.array(law["map"]), "--", color=colour, lw=1.1)
                canvas.axes.fill_between(places, low, high, color=colour, alpha=0.12, linewidth=0)
                ticks = [*photos, 2 * photos[-1]]
        canvas.axes.set(xscale="log", xlabel=language("axis_labelled"))
        canvas.axes.set_ylabel(language("axis_map"))
        canvas.axes.set_xticks(ticks, [language.number(tick, 0) for tick in ticks])
        canvas.axes.minorticks_off()
        canvas.axes.legend(frameon=False, fontsize=8, loc="upper left")
    return canvas.svg


def log_loss(scores: np.ndarray, labels: np.ndarray, language: Language) -> Markup:
    """The two curves of binary cross-entropy, and where one photo's classes lie on them.

    Scores and labels are [C].
    """
    grid = np.linspace(0.005, 0.995, 100)
    with open_canvas(language("figure_bce"), language, 4.4, 2.6) as canvas:
        for label, colour in ((1, COLOURS[0]), (0, COLOURS[1])):
            name = language("label_present" if label else "label_absent")
            canvas.axes.plot(grid, _losses(grid, label), color=colour, label=name)
            of_label = np.clip(scores[labels == label], 1e-7, 1 - 1e-7)
            losses = np.minimum(_losses(of_label, label), 5)
            canvas.axes.plot(of_label, losses, "o", color=colour, markersize=5)
        canvas.axes.set(xlabel=language("axis_score"), ylabel=language("axis_nats"), ylim=(0, 5.2))
        canvas.axes.legend(frameon=False, fontsize=8)
    return canvas.svg


def _losses(scores: np.ndarray, label: int) -> np.ndarray:
    return -np.log(scores if label else 1 - scores)
