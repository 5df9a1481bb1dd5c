"""A run directory -> what the page needs from it."""

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtl.errors import UserError
from vtl.evaluation import metrics

REGIMES = ("probe", "head", "partial", "full", "scratch")
"""What is trained: a head on features; a network's head, some or all of it; a random network."""

SHOWN_TASKS = ("finetune", "probe", "relu_study")
REQUIRED = ("seed", "status", "versions", "devices")
REQUIRED_OF_SCORES = (*metrics.QUANTITIES, "classes", "trainable_parameters", "seconds", "weights")
"""The keys of results.json that the page needs."""

SCORE_KEYS = ("scores", "labels")
GALLERY_KEYS = ("thumbnails", "ends", "ids", "scores", "labels", "photo", "column", "kind", "map")


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """One split: scores, labels [N, C]; ids [N] and difficult [N, C] where they are known."""

    scores: np.ndarray
    labels: np.ndarray
    ids: np.ndarray | None
    difficult: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One finished run.

    `metrics` holds the lines of metrics.jsonl. `scores` maps a split's role, such as test, to its
    scores. `scores` and `gallery` are empty for the ReLU study.
    """

    name: str
    path: Path
    config: dict[str, Any]
    results: dict[str, Any]
    metrics: list[dict[str, Any]]
    scores: dict[str, Scores]
    gallery: dict[str, np.ndarray]

    @property
    def task(self) -> str:
        """finetune, probe or relu_study."""
        return self.results["task"]

    @property
    def regime(self) -> str:
        """One of REGIMES."""
        if self.task == "probe":
            return "probe"
        if not self.results["weights"]:
            return "scratch"
        rules = self.config["optim"]["rules"]
        trained = [pattern for pattern, multiplier in rules if multiplier is not None]
        if len(trained) == len(rules):
            return "full"
        return "head" if all(pattern.startswith("fc") for pattern in trained) else "partial"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the columns of the scores."""
        return tuple(self.results["classes"])

    @property
    def headline_split(self) -> str:
        """The role of the split that the run is judged by: test, or else the last."""
        return "test" if "test" in self.scores else list(self.scores)[-1]

    @property
    def headline_scores(self) -> Scores:
        """The scores on that split."""
        return self.scores[self.headline_split]

    def headline_result(self, quantity: str) -> Any:
        """A quantity of results.json on that split, such as `map`."""
        return self.results[quantity][self.headline_split]

    @property
    def data_name(self) -> str | None:
        """The data set's name in the config; None for features that vtl did not make."""
        return (self.results.get("data") or {}).get("name")

    def has_same_photos_as(self, other: "Run") -> bool:
        """Whether classes and labels agree row by row, and ids where both runs have them."""
        ours, theirs = self.headline_scores, other.headline_scores
        return (
            self.classes == other.classes
            and np.array_equal(ours.labels, theirs.labels)
            and (ours.ids is None or theirs.ids is None or np.array_equal(ours.ids, theirs.ids))
        )


def read_all(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs that the page can show, and one line about each of the others."""
    runs, refused = [], []
    for path, name in zip(paths, _short_names(paths), strict=True):
        try:
            runs.append(read(path, name))
        except UserError as error:
            refused.append(str(error))
    return runs, refused


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path: as many as tell the paths apart."""
    parts = [path.absolute().parts for path in paths]
    for count in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def read(path: Path, name: str) -> Run:
    """Read one run's directory.

    Raises:
        UserError: it holds no run, an unfinished or damaged one, or one without anything to show.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such directory")
    if not (path / "config.json").exists():
        raise UserError(f"{path} holds no run: it has no config.json")
    config = _read_json(path / "config.json")
    if not (path / "results.json").exists():
        raise UserError(
            f"{path} is not finished: it has no results.json; give its command again to resume it"
        )
    results = _read_json(path / "results.json")
    _check(path, config, results)
    scores: dict[str, Scores] = {}
    gallery: dict[str, np.ndarray] = {}
    if results["task"] != "relu_study":
        scores = {role: _read_scores(path, role, results["classes"]) for role in results["map"]}
    run = Run(name, path, config, results, _read_lines(path / "metrics.jsonl"), scores, gallery)
    if scores and (path / f"gallery_{run.headline_split}.npz").exists():
        gallery |= _read_arrays(path / f"gallery_{run.headline_split}.npz", GALLERY_KEYS)
    return run


def _check(path: Path, config: dict[str, Any], results: dict[str, Any]) -> None:
    """Raise UserError if the page can't show a run with this config and these results."""
    task = results.get("task")
    if task == "features":
        raise UserError(
            f"{path} holds deep features but no scores: give the run of configs/linear_probe.py"
        )
    if task not in SHOWN_TASKS:
        raise UserError(f"{path} is a run of task '{task}', which the report does not show")
    needed = REQUIRED + (("networks",) if task == "relu_study" else REQUIRED_OF_SCORES)
    missing = [
        key for key in needed if key not in results or (results[key] is None and key != "weights")
    ]
    if missing:
        raise UserError(
            f"{path / 'results.json'} lacks {', '.join(missing)}: another version of vtl wrote it; "
            "run it again"
        )
    damaged = _damaged_key(config, results)
    if damaged:
        raise UserError(f"{path} is damaged: vtl does not write such a '{damaged}'; run it again")


def _damaged_key(config: dict[str, Any], results: dict[str, Any]) -> str | None:
    """The first key whose value vtl does not write, as after an edit by hand."""
    if results["task"] == "relu_study":
        return None
    roles, classes = results["map"], set(results["classes"])
    for key in metrics.QUANTITIES:
        by_role = results[key]
        if not isinstance(by_role, dict) or not by_role or by_role.keys() != roles.keys():
            return key
        if None in by_role.values() and key != "binary_accuracy":
            return key
    for by_protocol in results["ap"].values():
        if any(by_class.keys() != classes for by_class in by_protocol.values()):
            return "ap"
    for key in ("loss", "seconds"):
        numbers = results[key]
        if not isinstance(numbers, dict) or not all(
            isinstance(number, int | float) for number in numbers.values()
        ):
            return key
    if results["task"] == "finetune" and not config.get("optim", {}).get("rules"):
        return "optim.rules"
    return None


def _read_scores(path: Path, role: str, classes: list[str]) -> Scores:
    file = path / f"scores_{role}.npz"
    arrays = _read_arrays(file, SCORE_KEYS)
    scores, labels = (arrays[key] for key in SCORE_KEYS)
    ids, difficult = arrays.get("ids"), arrays.get("difficult")
    for key, array in (("labels", labels), ("difficult", difficult)):
        if array is None:
            continue
        if scores.ndim != 2 or array.shape != scores.shape or scores.shape[1] != len(classes):
            raise UserError(
                f"{file}: scores and {key} must have the shape [photos, {len(classes)} classes], "
                f"got {scores.shape} and {array.shape}"
            )
    if ids is not None and len(ids) != len(scores):
        raise UserError(f"{file} has {len(ids)} ids for {len(scores)} rows of scores")
    if not np.isfinite(scores).all():
        raise UserError(f"{file}: some scores are NaN or infinite")
    return Scores(scores, labels, ids, difficult)


def _read_arrays(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        # NumPy would leave a damaged file open.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = dict(file)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the run is incomplete") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read {path}: {_one_line(error)}") from None
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}")
    return arrays


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(), parse_constant=_refuse)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {_one_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object")
    return content


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; an empty list if there is no such file."""
    if not path.exists():
        return []
    try:
        lines = [json.loads(line, parse_constant=_refuse) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise UserError(f"cannot read {path}: {_one_line(error)}") from None
    if not all(isinstance(line, dict) for line in lines):
        raise UserError(f"{path}: every line must be a JSON object")
    return lines


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
