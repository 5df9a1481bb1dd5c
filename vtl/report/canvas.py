"""What all figures share: the colours of runs, and axes that become inline SVG.

Text and axes are drawn in `currentColor`, so that a figure follows the page from light to dark.
"""

import hashlib
import io
import itertools
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter, NullFormatter, ScalarFormatter

from vtl.report.language import Language

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#A87400", "#3A94C8")
"""Okabe and Ito's, which colour-blind readers can tell apart; the last two are darker, for white.
"""

DASHES = ("-", "--", ":")
INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""

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
    """How every figure draws a run."""

    colour: str
    dashes: str


def strokes(names: Iterable[str]) -> dict[str, Stroke]:
    """A colour for each name; when the colours run out, they come again with another dash."""
    styles = (Stroke(colour, dashes) for dashes in DASHES for colour in COLOURS)
    return dict(zip(names, itertools.cycle(styles), strict=False))


class Canvas:
    """One figure on its way to SVG."""

    svg: Markup

    def __init__(self, axes: Axes):
        self.axes = axes


@contextmanager
def open_canvas(
    title: str, language: Language, width: float, height: float, label: str = ""
) -> Iterator[Canvas]:
    """Axes of this width and height in inches, in the page's style.

    On leaving, `svg` holds the figure, which screen readers call by `label` or else `title`.
    """
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # The reader's browser has its own fonts.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        drawn = Canvas(figure.subplots())
        drawn.axes.set_title(
            "\n".join(textwrap.wrap(title, int(9 * width))), fontsize=10, loc="left"
        )
        yield drawn
        for axis in (drawn.axes.xaxis, drawn.axes.yaxis):
            if isinstance(axis.get_major_formatter(), ScalarFormatter | LogFormatter):
                axis.set_major_formatter(
                    FuncFormatter(lambda value, _: language.number(value, _decimals(value)))
                )
                axis.set_minor_formatter(NullFormatter())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn.svg = _inline(buffer.getvalue(), label or title)


def _decimals(value: float) -> int:
    """How many decimals a tick's value needs."""
    return min(4, len(f"{value:.6f}".rstrip("0").partition(".")[2]))


def _inline(svg: str, title: str) -> Markup:
    """The part of matplotlib's file that a page can hold, with ids that no other figure has."""
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
