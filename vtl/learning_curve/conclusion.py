"""What a learning curve shows, as lines for the terminal."""

from collections.abc import Sequence
from typing import Any

from vtl.console import format_seconds

TITLES = {"probe": "probe", "fine_tuned": "fine-tuned"}

WHY_NOTHING = {
    "few_photos": "there are fewer than 100 photos to train on",
    "few_shares": "fewer than four shares of the labels were measured",
    "one_draw": "one draw of the labels does not show its own spread",
    "misfit": "the points follow no power law",
    "flat": "the curve is flat within its noise",
    "falls": "the curve falls",
}

MORE = {
    "labels": "More labels bring more.",
    "finetuning": "Fine-tuning brings more.",
    "open": "Which brings more is open.",
}


def lines(found: dict[str, Any]) -> list[str]:
    """A table with a row a share, and the sentence."""
    names, differs = [name for name in TITLES if name in found], "difference" in found
    titles = [TITLES[name] for name in names]
    rows = [
        ["labels", "photos", *titles, *["difference"] * differs, *(f"time, {x}" for x in titles)]
    ]
    for place, share in enumerate(found["fractions"]):
        row = [f"{100 * share:g} %", str(found["photos"][place])]
        row += [_estimate(found[name], place) for name in names]
        row += [_estimate(found["difference"], place, "+")] if differs else []
        rows.append(row + [_time(found[name]["seconds"][place]) for name in names])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(f"{c:<{w}}" for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    on_what = f"mAP ({found['protocol']}) on {found['num_test']} test photos"
    draws = f"mean of {found['draws']} draws" if found["draws"] > 1 else "one draw"
    return [f"{on_what}, {draws}, in percent [95 % interval]", *table, "", sentence(found)]


def sentence(found: dict[str, Any]) -> str:
    """What twice the labels, fine-tuning, and neither give."""
    parts = [f"Twice the labels: {_foreseen(found['probe']['twice'])}"]
    if "difference" in found:
        gain = _estimate(found["difference"], -1, "+")
        parts.append(f"fine-tuning instead of the probe: {gain}")
    parts.append(f"neither: mAP {_estimate(found['probe'], -1)}.")
    return "; ".join(parts) + (f" {MORE[found['more']]}" if "more" in found else "")


def _foreseen(twice: dict[str, Any]) -> str:
    gain = _written(twice["gain"], twice["interval"], "+")
    why = twice["why_nothing"]
    if why is None:
        return gain
    return f"nothing can be said: {WHY_NOTHING[why]}" + (f" ({gain})" if why == "flat" else "")


def _estimate(of: dict[str, Any], place: int, sign: str = "") -> str:
    return _written(of["map"][place], of["map_interval"][place], sign)


def _written(value: float, interval: Sequence[float], sign: str) -> str:
    low, high = (f"{100 * bound:.1f}" for bound in interval)
    return f"{100 * value:{sign}.1f} [{low}, {high}]"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else format_seconds(seconds)
