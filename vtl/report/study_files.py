"""What the files of a ReLU study must hold for the page; the others are in `run_files`."""

import re
from pathlib import Path
from typing import Any

from vtl import schema
from vtl.errors import UserError
from vtl.relu_study.conclusion import NETWORK_TITLES
from vtl.report import run_files
from vtl.schema import at_least, count, dict_of, list_of, maybe, number, record, share, text

MAX_RESAMPLES, MAX_SEEDS = 1_000_000, 1000
"""More take long to draw."""

ESTIMATE = re.compile(r"\S+ \[\S+, \S+\]")


def check(
    directory: Path, config: dict[str, Any], results: dict[str, Any], lines: list[dict[str, Any]]
) -> None:
    """Raise UserError if the files of a ReLU study can't be shown."""
    with schema.of_file(directory / "config.json"):
        run_files.CONFIG(config, "")
        names = list_of(text, least=1)
        record(
            {
                "networks": names,
                "activations": names,
                "seeds": list_of(number, least=1),
                "thresholds": list_of(share, least=1),
                "main_threshold": share,
                "num_resamples": count,
                "data": record({"num_held_out": at_least(1)}),
            }
        )(config, "")
        if not 1 <= config["num_resamples"] <= MAX_RESAMPLES:
            raise UserError(f"'num_resamples' should be 1 to {MAX_RESAMPLES:,}")
    with schema.of_file(directory / "results.json"):
        run_files.OF_EVERY_RUN(results, "")
        record({"networks": dict_of(record({"activations": record({})}), least=1)})(results, "")
        for network in (*results["networks"], *config["networks"]):
            if network not in NETWORK_TITLES or network not in results["networks"]:
                raise UserError(f"'networks' has or lacks {network}")
        for network, of in results["networks"].items():
            _check_network(of, f"networks.{network}", config)
    with schema.of_file(directory / "metrics.jsonl"):
        of_study = dict.fromkeys(("network", "activation", "phase"), text)
        for place, line in enumerate(lines, start=1):
            norms = {key: maybe(at_least(0)) for key in line if key.startswith("gradient_norms/")}
            record(of_study | {"accuracy": maybe(share)}, norms)(line, f"line {place}")
        _check_curves(results, lines)


def _check_network(of: dict[str, Any], key: str, config: dict[str, Any]) -> None:
    thresholds = {f"{threshold:g}" for threshold in config["thresholds"]}
    thresholds.add(f"{config['main_threshold']:g}")
    time = at_least(1e-9)
    estimate = record({"median": maybe(time), "text": _estimate})
    shares = dict_of(share)
    trained = record(
        {
            "learning_rate": at_least(0),
            "at_the_grids_edge": schema.flag,
            "epochs_to_accuracy": record(dict.fromkeys(thresholds, estimate)),
            "epochs_to_lowest_loss": estimate,
            "test_accuracy": record({"median": share}),
            "saturated": shares,
            "dead": shares,
            "seeds": dict_of(
                record({"epochs_to_accuracy": record(dict.fromkeys(thresholds, maybe(time)))}),
                least=1,
            ),
        }
    )
    record({"num_epochs": time})(of, key)
    dict_of(record({"status": schema.one_of("trained", "diverged")}), least=1)(
        of["activations"], f"{key}.activations"
    )
    seeds = None
    for name, found in of["activations"].items():
        if found["status"] == "diverged":
            continue
        trained(found, f"{key}.activations.{name}")
        seeds = found["seeds"].keys() if seeds is None else seeds
        if found["seeds"].keys() != seeds or len(seeds) > MAX_SEEDS:
            raise UserError(f"'{key}.activations.{name}.seeds' are not those of the others")


def _estimate(value: Any, key: str) -> None:
    """`3.1 [2.8, 3.4]`."""
    text(value, key)
    if not ESTIMATE.fullmatch(value):
        raise UserError(f"'{key}' is '{value}' and should be like '3.1 [2.8, 3.4]'")


def _check_curves(results: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    drawn = {
        (line["network"], line["activation"])
        for line in lines
        if line["phase"] == "final" and any(key.startswith("gradient_norms/") for key in line)
    }
    for network, of in results["networks"].items():
        for activation, found in of["activations"].items():
            if found["status"] == "trained" and (network, activation) not in drawn:
                raise UserError(f"it has no line of {network} with {activation}")
