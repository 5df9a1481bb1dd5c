"""What a run's directory says of the network in it, and what is known of the weights' licence."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from vtl import schema
from vtl.errors import UserError
from vtl.files import user_path
from vtl.untrusted import printable, read_json
from vtl.weights import sources

_RESULTS = schema.record(
    {},
    {
        "map": schema.dict_of(schema.dict_of(schema.maybe(schema.number))),
        "map_interval": schema.dict_of(
            schema.dict_of(schema.maybe(schema.list_of(schema.number, length=2)))
        ),
        "ap": schema.dict_of(schema.dict_of(schema.dict_of(schema.maybe(schema.number)))),
        "answers": schema.dict_of(schema.answers()),
        "num_images": schema.dict_of(schema.count),
        "weights": schema.maybe(
            schema.record({}, {"name": schema.maybe(schema.text), "sha256": schema.text})
        ),
        "data": schema.record({}, {"name": schema.text}),
        "commit": schema.maybe(schema.text),
    },
)
_MAX_TEXT = 200
_WITH_NETWORK = ("finetune", "probe", "classify")


class Run(NamedTuple):
    """A finished run: its directory, config.json and results.json."""

    path: Path
    config: dict[str, Any]
    results: dict[str, Any]


def read(name: str) -> Run | None:
    """The run of a directory; None if the name is that of a file, a source or a folder of others.

    Raises:
        UserError: the run has not finished, or its files are damaged.
    """
    path = user_path(name)
    if name in sources.SOURCES or not os.path.isdir(path):
        return None
    config_path, results_path = path / "config.json", path / "results.json"
    config = read_json(config_path) if config_path.exists() else {}
    is_run = isinstance(config, dict) and "task" in config
    if not results_path.exists():
        if is_run:
            raise UserError(
                f"{printable(path)} is a run that has not finished: there is no results.json\n"
                "Run the same command again, and it goes on where it stopped."
            )
        return None
    if is_run and config["task"] not in _WITH_NETWORK:
        raise UserError(
            f"{printable(path)} is a run of task {printable(config['task'], 40)}, which leaves no "
            "network\nName the run of a fine-tuning or of a linear probe."
        )
    with schema.of_file(results_path):
        results = schema.cleaned(read_json(results_path), _MAX_TEXT)
        _RESULTS(results, "")
    return Run(path, config if is_run else {}, results)


def origin(weights: sources.Weights, run: Run | None) -> tuple[str, str]:
    """The weights that a network goes back to and their licence; both may be `unknown`."""
    if run is None:
        known = sources.known_as(weights.path, weights.sha256)
        name = known or weights.path.name
    else:
        record = run.results.get("weights")
        if record is None:
            return "none: it was trained from random numbers", "yours"
        name, sha256 = str(record.get("name")), record.get("sha256", "")
        known = name if name in sources.SOURCES else _by_hash(sha256)
    if known is None:
        return printable(name), "unknown"
    return known, sources.SOURCES[known].licence


def _by_hash(sha256: str) -> str | None:
    for name, source in sources.SOURCES.items():
        if source.download.sha256 and sha256.startswith(source.download.sha256):
            return name
    return None


def gallery_of(run: Run | None) -> Path | None:
    """The run's gallery of its headline split, None if it has none."""
    if run is None:
        return None
    places = [run.path / f"gallery_{role}.npz" for role in ("test", "val", "train")]
    return next((place for place in places if place.exists()), None)
