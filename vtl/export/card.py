"""The model card, a README.md: what an exported network is, how good it is, how to run it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import vtl
from vtl.evaluation import metrics
from vtl.evaluation.outcome import MAP_PROTOCOL, headline_split
from vtl.export.run_facts import Run
from vtl.untrusted import printable
from vtl.weights import network
from vtl.weights.sources import Weights
from vtl.weights.verify import describe

MOST_CLASSES = 200
"""Rows of the table of classes."""

RUNTIMES = {
    "ONNX Runtime": ".onnx",
    "OpenVINO": ".onnx",
    "JAX": ".stablehlo",
    "PyTorch": ".safetensors",
}
"""What runs it -> the format that it reads."""


class Card(NamedTuple):
    """What a card tells, besides the network itself."""

    output: Path
    source: str
    """What was exported, as the command names it."""
    classes: tuple[str, ...]
    run: Run | None
    origin: tuple[str, str]
    """The weights that it goes back to, and their licence."""
    tried: Sequence[str]
    """Lines: where it was run, and what that showed."""
    usage: Mapping[str, str]
    """Runtime -> lines of Python; those of other formats are left out."""
    notes: Sequence[str]
    """Lines about this format."""


def text(card: Card, weights: Weights) -> str:
    """The page, in Markdown."""
    own, pixels = weights.architecture, weights.preprocessing
    answer = "any number of classes" if weights.multi_label else "one class"
    parts = [
        f"# {_cell(card.output.name)}",
        f"{own.title} for photos of {own.num_classes} classes, of which a photo has "
        f"{answer}. Exported by vtl {vtl.__version__} from `{printable(card.source, 120)}`.",
        "## Data and quality",
        *_quality(card.run),
        "## Classes",
        _table(card, weights),
        "## Pixels",
        f"Photos are turned upright. {describe(pixels)}; {pixels.interpolation} {pixels.resize} to "
        f"{pixels.stored_size(crops=False)}, the central {pixels.crop_size} are seen.",
        f"The head sees {network.describe_head(own)}.",
        "## Tried",
        *(f"- {_cell(line)}" for line in card.tried),
        *(f"- {line}" for line in card.notes),
        "## Limits",
        *_limits(weights),
        "## Licence of the weights",
        f"They go back to {_cell(card.origin[0])}, whose licence is: {card.origin[1]}. What was "
        "trained on top is the trainer's, and the photos have licences of their own.",
        "## How to run it",
        *_usage(card),
    ]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def _quality(run: Run | None) -> list[str]:
    """Of a run: its data, and its mAPs with their intervals."""
    if run is None:
        return ["These weights are of no run of vtl: nothing is known of their data here."]
    results, by_role = run.results, run.results.get("map") or {}
    data = (results.get("data") or {}).get("name", "unknown")
    lines = [
        f"Data: {_cell(data)}. Run: `{printable(run.path.name, 80)}`, commit "
        f"{results.get('commit') or 'unknown'}."
    ]
    if not by_role:
        return [*lines, "The run has no mAP."]
    role = headline_split(by_role)
    photos = (results.get("num_images") or {}).get(role)
    rows = ["| protocol | mAP in percent, with its 95 % interval |", "| --- | --- |"]
    for name, mean in by_role[role].items():
        interval = ((results.get("map_interval") or {}).get(role) or {}).get(name)
        shown = "none" if mean is None else f"{100 * mean:.1f}"
        if interval:
            shown += f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
        meaning = metrics.PROTOCOLS[name].description if name in metrics.PROTOCOLS else name
        rows.append(f"| {_cell(name)}: {meaning} | {shown} |")
    return [*lines, f"On the {photos or ''} photos of {_cell(role)}:", "\n".join(rows)]


def _table(card: Card, weights: Weights) -> str:
    """Each class with its AP, its threshold and what that gave, as far as the run says."""
    columns: dict[str, list[str]] = {"class": [_cell(name) for name in card.classes]}
    results = card.run.results if card.run else {}
    if by_role := results.get("ap"):
        aps = (by_role[headline_split(by_role)] or {}).get(MAP_PROTOCOL) or {}
        columns[f"AP ({MAP_PROTOCOL})"] = [_percent(aps.get(name)) for name in card.classes]
    if weights.decisions:
        columns["threshold"] = [f"{x:.3f}" for x in weights.decisions.thresholds]
    if by_role := results.get("answers"):
        by_class = by_role[headline_split(by_role)]["by_class"]
        for quantity in ("precision", "recall", "f1"):
            columns[quantity] = [
                _percent((by_class.get(name) or {}).get(quantity, {}).get("value"))
                for name in card.classes
            ]
    rows = list(zip(*columns.values(), strict=True))
    lines = [list(columns), ["---"] * len(columns), *rows[:MOST_CLASSES]]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    left = len(rows) - MOST_CLASSES
    return table + (f"\n\nAnd {left:,} more, which the file's metadata names." if left > 0 else "")


def _percent(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{100 * value:.1f}" if is_number else "-"


def _limits(weights: Weights) -> list[str]:
    lines = [
        "- It was scored on photos like those it was trained on. On photos from elsewhere it is "
        "worse, and nobody has measured how much.",
        "- It knows no other classes than these.",
    ]
    if weights.decisions:
        lines.append(
            f"- Probabilities are calibrated and thresholds chosen ({weights.decisions.rule}) on "
            f"{_cell(weights.decisions.chosen_on)}."
        )
    else:
        lines.append("- Probabilities are not calibrated; 0.5 is no threshold that was chosen.")
    return lines


def _usage(card: Card) -> list[str]:
    parts = []
    for runtime, suffix in RUNTIMES.items():
        parts.append(f"### {runtime}")
        if runtime in card.usage:
            parts.append(f"```python\n{card.usage[runtime]}```")
        else:
            parts.append(
                f"It reads another format: `vtl export {printable(card.source, 120)} -o "
                f"{printable(card.output.stem, 80)}{suffix}`, whose card has the lines."
            )
    return parts


def _cell(value: object) -> str:
    """Foreign text as text: nothing in it is Markdown or HTML."""
    line = printable(value)
    for mark in "\\`*_[]|":
        line = line.replace(mark, f"\\{mark}")
    return line.replace("<", "&lt;").replace(">", "&gt;")
