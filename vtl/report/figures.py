"""The page's figures: inline SVG, in the page's own colours and fonts.

Each function gives one <svg>. Text and axes are drawn in `currentColor`, so that a figure follows
the page from light to dark; runs keep one of Okabe and Ito's colours in all figures.
"""

import hashlib
import io
import itertools
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter, NullFormatter, ScalarFormatter
from sklearn.metrics import precision_recall_curve

from vtl.relu_study.conclusion import title as titled
from vtl.report.compare import PROTOCOL, DataSet
from vtl.report.language import Language
from vtl.report.runs import Run
from vtl.untrusted import printable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#A87400", "#3A94C8")
"""Okabe and Ito's, which the colour-blind can tell apart; the last two darkened, to show on white.
"""

DASHES = ("-", "--", ":")
INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""

MAX_POINTS = 150
"""Of a curve; what it has more are averaged."""

MAX_NAME = 40
"""Characters of a name in a figure."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vtl",
    "text.parse_math": False,
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
    "grid.color": INK,
}


class Stroke(NamedTuple):
    """How a run is drawn in every figure."""

    colour: str
    dashes: str


def strokes(names: Iterable[str]) -> dict[str, Stroke]:
    """A colour for each name, with another dash where colours run out."""
    styles = (Stroke(colour, dashes) for dashes in DASHES for colour in COLOURS)
    return dict(zip(names, itertools.cycle(styles), strict=False))


class _Canvas:
    """One figure on its way to SVG."""

    svg: Markup

    def __init__(self, axes: Axes):
        self.axes = axes


@contextmanager
def _canvas(
    title: str, language: Language, width: float, height: float, label: str = ""
) -> Iterator[_Canvas]:
    """Axes in the page's style; afterwards `svg` is written, labelled with `label` or `title`."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # The reader's browser has its own fonts.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        canvas = _Canvas(figure.subplots())
        canvas.axes.set_title(
            "\n".join(textwrap.wrap(title, int(9 * width))), fontsize=10, loc="left"
        )
        yield canvas
        for axis in (canvas.axes.xaxis, canvas.axes.yaxis):
            if isinstance(axis.get_major_formatter(), ScalarFormatter | LogFormatter):
                axis.set_major_formatter(
                    FuncFormatter(lambda value, _: language.number(value, _decimals(value)))
                )
                axis.set_minor_formatter(NullFormatter())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    canvas.svg = _inline(buffer.getvalue(), label or title)


def _decimals(value: float) -> int:
    """The decimals it takes to write a tick's value."""
    return min(4, len(f"{value:.6f}".rstrip("0").partition(".")[2]))


def _inline(svg: str, title: str) -> Markup:
    """What a page can hold of matplotlib's file: no prologue, and ids that no other figure has."""
    svg = svg[svg.index("<svg") :]
    prefix = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(?<=\bid=")|(?<=href="#)|(?<=url\(#)', f"f{prefix}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1, flags=re.DOTALL)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    return Markup(re.sub(r"\s*\n\s*", "\n", svg.replace(INK, "currentColor")))


def curve(
    lines: Mapping[str, list[tuple[float, float]]],
    styles: Mapping[str, Stroke],
    words: tuple[str, str, str],
    language: Language,
) -> Markup:
    """Lines of (x, y) by name; `words` are the title and the two axes'."""
    title, across, up = words
    with _canvas(title, language, 4.4, 2.7) as canvas:
        for place, (name, points) in enumerate(lines.items()):
            xs, ys = _thinned(np.array(points, np.float64)).T
            colour, dashes = styles[name]
            # Of lines that coincide the earlier ones are wider.
            width = 1.4 + 0.7 * (len(lines) - 1 - place)
            marker = "." if len(xs) < 30 else ""
            canvas.axes.plot(xs, ys, dashes, color=colour, marker=marker, lw=min(width, 4))
        canvas.axes.set(xlabel=across, ylabel=up)
    return canvas.svg


def _short(name: str) -> str:
    """A name that leaves room for the figure."""
    return printable(name, MAX_NAME)


def _thinned(points: np.ndarray) -> np.ndarray:
    """Points [N, 2] as they are, or means of as many neighbours as it takes for MAX_POINTS."""
    size = -(-len(points) // MAX_POINTS)
    return np.array([points[i : i + size].mean(axis=0) for i in range(0, len(points), size)])


def class_precisions(
    data_set: DataSet, styles: Mapping[str, Stroke], classes: Sequence[str], language: Language
) -> Markup:
    """AP of each class with its interval, run beside run, the first of `classes` on top."""
    runs = data_set.runs
    height = 0.8 + len(classes) * max(0.2, 0.11 * len(runs))
    title = language("figure_classes", protocol=PROTOCOL)
    with _canvas(title, language, 4.4, height) as canvas:
        for place, run in enumerate(runs):
            ap, interval = (run.of_shown(q)[PROTOCOL] for q in ("ap", "ap_interval"))
            for row, name in enumerate(classes):
                if ap[name] is None:
                    continue
                y = row + 0.7 * ((place + 0.5) / len(runs) - 0.5)
                low, high = interval[name] or (ap[name], ap[name])
                colour, dashes = styles[run.name]
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
    """Precision against recall of one class, a line for each run."""
    title = _short(data_set.first.classes[column])
    label = f"{language('precision_recall')}: {title}"
    with _canvas(title, language, 2.0, 1.9, label) as canvas:
        for run in data_set.runs:
            labels, ranked_by = run.shown.labels[:, column], run.shown.ranked_by[:, column]
            precision, recall, _ = precision_recall_curve(labels, ranked_by)
            rows = evenly(recall, 60)
            colour, dashes = styles[run.name]
            canvas.axes.plot(recall[rows], precision[rows], dashes, color=colour, linewidth=1.2)
        canvas.axes.set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        canvas.axes.set_xlabel(language("axis_recall"), fontsize=8)
        canvas.axes.set_ylabel(language("axis_precision"), fontsize=8)
    return canvas.svg


def evenly(recall: np.ndarray, count: int) -> np.ndarray:
    """Rows of a falling recall [N]: of at most `count` of its values the first and the last."""
    last = np.append(np.flatnonzero(np.diff(recall)), len(recall) - 1)
    first = np.append(0, last[:-1] + 1)
    kept = np.unique(np.linspace(0, len(last) - 1, count).round().astype(int))
    return np.unique([first[kept], last[kept]])


def together(labels: np.ndarray, classes: Sequence[str], language: Language) -> Markup:
    """Of the photos with one class, the percentage that has another as well."""
    counts = labels.T.astype(int) @ labels.astype(int)
    shares = 100 * counts / np.maximum(np.diag(counts)[:, None], 1)
    np.fill_diagonal(shares, np.nan)
    names = [_short(name) for name in classes]
    side = 1.4 + 0.17 * len(names) + 0.05 * max(map(len, names))
    with _canvas(language("figure_together"), language, side + 0.7, side) as canvas:
        drawn = canvas.axes.pcolormesh(shares, cmap="cividis_r", edgecolors="face", linewidth=0.2)
        places = np.arange(len(names)) + 0.5
        canvas.axes.set_xticks(places, names, rotation=90)
        canvas.axes.set_yticks(places, names)
        canvas.axes.set(xlabel=language("axis_also"), ylabel=language("axis_with"), aspect="equal")
        canvas.axes.invert_yaxis()
        canvas.axes.grid(visible=False)
        bar = canvas.axes.figure.colorbar(drawn, ax=canvas.axes, shrink=0.7)
        bar.set_label("%")
        bar.outline.set_visible(False)
    return canvas.svg


def scores_of_one(
    classes: Sequence[str],
    values: Mapping[str, np.ndarray],
    words: tuple[str, str],
    language: Language,
) -> Markup:
    """Bars of one photo's values for each class, by what they are called."""
    title, across = words
    height = 0.9 + len(classes) * 0.11 * (1 + len(values))
    with _canvas(title, language, 4.4, height) as canvas:
        for place, (name, numbers) in enumerate(values.items()):
            offset = 0.8 * ((place + 0.5) / len(values) - 0.5)
            canvas.axes.barh(
                np.arange(len(classes)) + offset,
                numbers,
                0.7 / len(values),
                color=COLOURS[place],
                label=name,
            )
        canvas.axes.set_yticks(range(len(classes)), map(_short, classes))
        canvas.axes.set(ylim=(len(classes) - 0.4, -0.6), xlabel=across)
        canvas.axes.grid(axis="y", visible=False)
        if len(values) > 1:
            canvas.axes.legend(frameon=False, fontsize=8)
    return canvas.svg


def differences(
    rows: Sequence[tuple[str, float, float, float]], title: str, language: Language
) -> Markup:
    """Differences of mAP, in points, each with its interval, beside a line at zero."""
    with _canvas(title, language, 4.4, 0.9 + 0.3 * len(rows)) as canvas:
        for row, (_, value, low, high) in enumerate(rows):
            canvas.axes.plot([100 * low, 100 * high], [row, row], color=COLOURS[0])
            canvas.axes.plot(100 * value, row, "o", color=COLOURS[0], markersize=5)
        canvas.axes.axvline(0, color=INK, linewidth=0.8)
        canvas.axes.set_yticks(range(len(rows)), [_short(name) for name, *_ in rows])
        canvas.axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=language("axis_difference"))
        canvas.axes.grid(axis="y", visible=False)
    return canvas.svg


def study_curves(
    run: Run, network: str, quantity: str, words: tuple[str, str, str], language: Language
) -> Markup:
    """A quantity of the ReLU study by epoch: the median and the range of the seeds."""
    title, across, up = words
    activations = run.config["activations"]
    with _canvas(title, language, 4.4, 2.7) as canvas:
        for activation, (colour, dashes) in strokes(activations).items():
            epochs, values = _by_epoch(run, network, activation, quantity)
            if not epochs:
                continue
            median = [np.median(of) for of in values]
            canvas.axes.plot(epochs, median, dashes, color=colour, label=titled(activation))
            low, high = zip(*[(min(of), max(of)) for of in values], strict=True)
            canvas.axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
        canvas.axes.set(xlabel=across, ylabel=up, xscale="log", yscale="log")
        if canvas.axes.lines:
            canvas.axes.legend(frameon=False, fontsize=8)
    return canvas.svg


def _by_epoch(
    run: Run, network: str, activation: str, quantity: str
) -> tuple[list[float], list[list[float]]]:
    """Epochs and, for each, the quantity of every seed; an error for accuracy, in percent."""
    found: dict[float, list[float]] = {}
    num_held_out = run.config["data"]["num_held_out"]
    for line in run.metrics:
        is_wanted = (line["network"], line["activation"], line["phase"]) == (
            network,
            activation,
            "final",
        )
        if not is_wanted:
            continue
        if quantity == "gradients":
            norms = [value for key, value in line.items() if key.startswith("gradient_norms/")]
            value = None if None in norms else float(np.sqrt(np.sum(np.square(norms))))
        else:
            accuracy = line["accuracy"]
            value = None if accuracy is None else max(100 * (1 - accuracy), 50 / num_held_out)
        if value:
            found.setdefault(line["epoch"], []).append(value)
    size = max(1, -(-len(found) // MAX_POINTS))
    kept = list(found.items())[::size]
    return [epoch for epoch, _ in kept], [values for _, values in kept]


def log_loss(scores: np.ndarray, labels: np.ndarray, language: Language) -> Markup:
    """The two curves of binary cross-entropy, and where one photo's classes lie on them."""
    ps = np.linspace(0.005, 0.995, 100)
    with _canvas(language("figure_bce"), language, 4.4, 2.6) as canvas:
        for label, colour in ((1, COLOURS[0]), (0, COLOURS[1])):
            of = np.clip(scores[labels == label], 1e-7, 1 - 1e-7)
            name = language("label_present" if label else "label_absent")
            canvas.axes.plot(ps, -np.log(ps if label else 1 - ps), color=colour, label=name)
            loss = -np.log(of if label else 1 - of)
            canvas.axes.plot(of, np.minimum(loss, 5), "o", color=colour, markersize=5)
        canvas.axes.set(xlabel=language("axis_score"), ylabel=language("axis_nats"), ylim=(0, 5.2))
        canvas.axes.legend(frameon=False, fontsize=8)
    return canvas.svg
