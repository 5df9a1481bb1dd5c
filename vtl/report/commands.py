"""The commands that make the runs that the page lacks."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from vtl.report.compare import DataSet

DEMO_HEAD = (
    "--config.data.name=demo --config.weights=demo --config.data.resize=squash "
    "--config.data.image_size=96"
)
"""Options that make `finetune:head` do on the demo's photos what its probe does on features."""

FRACTIONS = [0.7, 0.1, 0.2]
"""The default of data.split_fractions, as config.json has it."""


def to_make(kind: str, data_set: DataSet | None) -> list[str]:
    """The commands that make a run of this kind on this data: a probe, head or finetuning."""
    if data_set is not None and data_set.name == "demo":
        return {
            "probe": ["vtl deep_features:demo", "vtl linear_probe:demo"],
            "head": [f"vtl finetune:head --workdir=runs/head {DEMO_HEAD}"],
            "finetuning": ["vtl finetune:demo"],
        }[kind]
    common, splits, features_file = "", "", "DF_ResNet50_VOC2007.npz"
    if data_set is not None:
        common, splits, features_file = _common(data_set)
    of_head = common if "--config.weights=" in common else f"{common} --config.weights=keras_v1"
    return {
        "probe": [
            f"vtl deep_features:lab --workdir=runs/features{common}",
            f"vtl linear_probe --workdir=runs/probe "
            f"--config.features={shlex.quote(f'runs/features/{features_file}')}{splits}",
        ],
        "head": [f"vtl finetune:head --workdir=runs/head --config.data.resize=squash{of_head}"],
        "finetuning": [f"vtl finetune --workdir=runs/finetune{common}"],
    }[kind]


def _common(data_set: DataSet) -> tuple[str, str, str]:
    """What a new run must share with the others.

    Returns options for data and weights, options for a probe's splits, and the name of the file
    with the deep features.
    """
    name, network = data_set.name or "voc2007", "ResNet-50"
    options: dict[str, str] = {}
    splits: dict[str, str] = {}
    is_named_after_root = False
    for run in data_set.runs:
        data = run.config.get("data", {})
        given = {f"data.{knob}": data.get(knob) for knob in ("root", "labels", "separator")}
        given |= {
            "data.flags": _unless(data.get("flags"), "yes_no"),
            "data.split_fractions": _unless(data.get("split_fractions"), FRACTIONS),
            "weights": (run.results.get("weights") or {}).get("name"),
        }
        is_named_after_root |= bool(data.get("root")) and data.get("name") != name
        options |= {key: value for key, value in given.items() if value and key not in options}
        names = (run.results.get("data") or {}).get("splits", {})
        splits |= {
            f"{role}_split": names[role]
            for role, default in (("train", "trainval"), ("test", "test"))
            if names.get(role, default) != default
        }
        network = run.network_title or network
    options |= {f"data.{key}": value for key, value in splits.items()}
    if name != "voc2007" and not is_named_after_root:
        options["data.name"] = name
    short = re.sub(r"\W", "", network.split()[0])  # as vtl/tasks/features.py names it
    label = name if is_named_after_root else name.upper()
    return _as_options(options), _as_options(splits), f"DF_{short}_{label}.npz"


def _unless(value: Any, default: Any) -> str | None:
    """A value as a word of a command line; None if it is missing or the default."""
    if value is None or value == default:
        return None
    return f"({', '.join(map(str, value))})" if isinstance(value, list) else value


def _as_options(options: Mapping[str, str]) -> str:
    return "".join(f" --config.{key}={shlex.quote(value)}" for key, value in options.items())
