"""The finished shards of deep features in their run directories, and whether they are of one run.

They are compared before one is read: by their configs, and by what made_of.json says of the whole
data, the weights and the preprocessing.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vtl import identity
from vtl.data import deep_features
from vtl.errors import UserError
from vtl.features.shards import DIRECTORY, Shard
from vtl.run_directory import RunDirectory
from vtl.schema import Check, dict_of, of_file, record, text
from vtl.untrusted import printable, read_json, reading

_CONFIG = record({"task": text}, {"shard": text})
_RESULTS: Check = record(
    {
        "features": text,
        "files": dict_of(text),
        "sha256": text,
        "network": record({}),
        "shard": deep_features.SHARD,
    }
)

_CONTENT = record({"data": record({}), "weights": text, "preprocessing": text})

_MOST_NAMED = 8
"""Of the shards that are missing."""


class Part(NamedTuple):
    """A finished shard: its run directory, and what that says."""

    run: RunDirectory
    config: dict[str, Any]
    content: dict[str, Any]
    results: dict[str, Any]

    @property
    def path(self) -> Path:
        """Its run directory."""
        return self.run.path

    @property
    def shard(self) -> Shard:
        """Which it is."""
        return Shard(self.results["shard"]["index"], self.results["shard"]["count"])

    @property
    def content_of_all(self) -> dict[str, Any]:
        """What all shards are made of together: its content but for the photos that it has."""
        data = self.content["data"]
        whole = {key: value for key, value in data.items() if not key.endswith(".used")}
        return self.content | {"data": whole}


def read_all(directories: Sequence[Path]) -> list[Part]:
    """All shards of one run, in order, of `directories` and of those right below them.

    Raises:
        UserError: shards are missing, there twice, unfinished, or not of the same run.
    """
    parts = sorted(map(_read, _places(directories)), key=lambda part: part.shard.index)
    for part in parts[1:]:
        _check_same(parts[0], part)
    _check_all_are_there(parts)
    return parts


def _places(given: Sequence[Path]) -> list[Path]:
    """The directories of shards, of those given or right below them."""
    found: dict[str, Path] = {}
    for directory in given:
        if not directory.is_dir():
            raise UserError(f"{printable(directory)} is no directory: give those of the shards")
        below = [path for path in directory.iterdir() if DIRECTORY.fullmatch(path.name)]
        if not below and (directory / "config.json").exists():
            below = [directory]
        if not below:
            raise UserError(f"{printable(directory)} is no shard, and has none in it")
        found |= {str(path.absolute()): path for path in sorted(below)}
    return list(found.values())


def _read(directory: Path) -> Part:
    path = directory / "config.json"
    with of_file(path):
        config = read_json(path, inside=directory)
        _CONFIG(config, "")
    if config["task"] != "features" or not config.get("shard"):
        task = printable(config["task"], 40)
        whole = "all features" if config["task"] == "features" else f"a run of the task {task}"
        raise UserError(f"{printable(directory)} is no shard: it holds {whole}")
    with reading(path):
        run = RunDirectory(directory, ConfigDict(config))
    made_of = identity.read(directory)
    if not run.is_finished or made_of is None:
        raise UserError(
            f"{printable(directory)} is not finished: run its command again, which goes on"
        )
    with of_file(directory / identity.FILE_NAME):
        _CONTENT(made_of["content"], "content")
    results = run.read_results()
    with of_file(directory / "results.json"):
        _RESULTS(results, "")
    part = Part(run, config, made_of["content"], results)
    shard = results["shard"]
    is_itself = config["shard"] == str(part.shard) and shard["index"] < shard["count"]
    if not is_itself or shard["rows"].keys() != shard["num_images"].keys():
        raise UserError(f"{printable(directory)} contradicts itself: make the shard again")
    return part


def _check_same(one: Part, other: Part) -> None:
    """Refuse shards that are not of the same run, but for where its photos and weights lie."""
    names = f"{printable(one.path)} and {printable(other.path)}"
    if one.shard.count != other.shard.count:
        raise UserError(
            f"{names} are not of the same run: one is {one.shard}, the other {other.shard}"
        )
    changed = identity.changes(one.config | {"shard": ""}, other.config | {"shard": ""})
    if not identity.may_have_moved(changed):
        raise UserError(f"{names} are not of the same run: {identity.describe(changed)}")
    if words := identity.other_content(one.content_of_all, other.content_of_all):
        # Where the ids are others, so are their labels.
        words = [word for word in words if word.startswith("ids")] or words
        raise UserError(f"{names} are not of the same run: they have other {', '.join(words[:3])}")
    for key in ("num_images", "ids_sha256"):
        if one.results["shard"][key] != other.results["shard"][key]:
            raise UserError(f"{names} are not of the same run: they have other {key}")


def _check_all_are_there(parts: Sequence[Part]) -> None:
    """Refuse gaps and overlaps; the shards are in order."""
    for one, other in itertools.pairwise(parts):
        if one.shard == other.shard:
            names = f"{printable(one.path)} and {printable(other.path)}"
            raise UserError(f"{names} are both shard {one.shard}: leave one of them out")
    num_shards = parts[0].shard.count
    if num_missing := num_shards - len(parts):
        present = {part.shard.index for part in parts}
        missing = (index for index in range(num_shards) if index not in present)
        shown = list(itertools.islice(missing, _MOST_NAMED))
        more = f" and {num_missing - len(shown)} more" if num_missing > len(shown) else ""
        raise UserError(
            f"missing of {num_shards} shards: {', '.join(map(str, shown))}{more}\n"
            f"Make them by the same command, with --config.shard={shown[0]}/{num_shards}."
        )
    for role, num_images in parts[0].results["shard"]["num_images"].items():
        rows = [part.results["shard"]["rows"][role] for part in parts]
        ends = [0, *(end for _, end in rows)]
        if [first for first, _ in rows] != ends[:-1] or ends[-1] != num_images:
            raise UserError(
                f"the rows of {printable(role, 40)} in one shard don't follow the last's"
            )
