"""A run directory -> what the page needs from it."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtl.errors import UserError
from vtl.report import run_files, study_files
from vtl.report.run_files import Scores
from vtl.untrusted import plain_sha256, printable, reason_of

REGIMES = ("probe", "head", "partial", "full", "scratch")
"""What is trained: a head on features; a network's head, some or all of it; a random network."""

SHOWN_TASKS = ("finetune", "learning_curve", "probe", "relu_study")


class Unfinished(UserError):
    """A run without results."""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One finished run.

    `metrics` holds the lines of metrics.jsonl. `scores` maps a split's role, such as test, to its
    scores. `scores` and `gallery` are empty for studies of many trainings. `made_of` is what the
    run was begun with, None of runs of vtl 0.1, and `sha256` that of its files with scores, by
    name.
    """

    name: str
    path: Path
    config: dict[str, Any]
    results: dict[str, Any]
    metrics: list[dict[str, Any]]
    scores: dict[str, Scores]
    gallery: dict[str, np.ndarray]
    made_of: dict[str, Any] | None = None
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def task(self) -> str:
        """One of SHOWN_TASKS."""
        return self.results["task"]

    @property
    def regime(self) -> str:
        """One of REGIMES."""
        if self.task == "probe":
            return "probe"
        if not self.results["weights"]:
            return "scratch"
        if not self.config.get("num_epochs", 1):
            return "head"
        rules = self.config["optim"]["rules"]
        trained = [pattern for pattern, multiplier in rules if multiplier is not None]
        if len(trained) == len(rules):
            return "full"
        return "head" if all(pattern.startswith("fc") for pattern in trained) else "partial"

    @property
    def special_head(self) -> dict[str, Any]:
        """What the head does beside a dense layer on the mean; {} of a run of vtl 0.1."""
        network = self.results.get("network") or {}
        published = network.get("plain_pooling", "average")
        plain = {"pooling": published, "transform": "none", "regions": 0}
        own = plain | network
        return {name: own[name] for name, value in plain.items() if own[name] != value}

    @property
    def has_exact_maps(self) -> bool:
        """Whether the head is a dense layer on the mean of maps, so that its maps add up."""
        pooling = (self.results.get("network") or {}).get("pooling", "average")
        return not self.special_head and pooling == "average"

    @property
    def network_title(self) -> str | None:
        """What the network is called, such as ResNet-50; None of a run that says nothing of it."""
        # Runs of vtl 0.1 say the depth in their config alone.
        network = self.results.get("network") or self.config.get("model", {})
        depth = network.get("depth")
        return network.get("title") or (None if depth is None else f"ResNet-{depth}")

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
        """Whether classes and labels agree row by row, and ids if both runs have them."""
        ours, theirs = self.headline_scores, other.headline_scores
        return (
            self.classes == other.classes
            and np.array_equal(ours.labels, theirs.labels)
            and np.array_equal(ours.is_known, theirs.is_known)
            and (ours.ids is None or theirs.ids is None or ours.ids == theirs.ids)
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
        names = [printable("/".join(part[-count:]), 80) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [f"{name} ({place})" for place, name in enumerate(names, start=1)]


def read(path: Path, name: str, *, with_gallery: bool = True) -> Run:
    """Read one run's directory.

    Raises:
        Unfinished: it has no results.
        UserError: it holds no run, a damaged one, or one without anything to show.
    """
    shown = printable(path)
    try:
        names = os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{shown}: no such directory") from None
    except OSError as error:
        raise UserError(f"{shown} can't be read: {reason_of(error)}") from error
    if "config.json" not in names:
        raise UserError(f"{shown} holds no run: it has no config.json")
    config = run_files.read_config(path)
    if "results.json" not in names:
        raise Unfinished(
            f"{shown} is not finished: it has no results.json; give its command again to resume it"
        )
    results = run_files.read_results(path)
    task = results.get("task")
    if task == "features":
        raise UserError(
            f"{shown} holds deep features but no scores: give the run of `vtl linear_probe`"
        )
    if task not in SHOWN_TASKS:
        raise UserError(
            f"{shown} is a run of task '{printable(task, 40)}', which the report does not show"
        )
    lines = run_files.read_metrics(path)
    if task == "relu_study":
        study_files.check(path, config, results, lines)
        return Run(name, path, config, results, lines, {}, {})
    if task == "learning_curve":
        run_files.check_curve(path, config, results)
        return Run(name, path, config, results, lines, {}, {}, run_files.read_made_of(path))
    run_files.check_scored(path, config, results)
    classes = results["classes"]
    scores = {role: run_files.read_scores(path, role, classes) for role in results["map"]}
    files = (f"scores_{role}.npz" for role in scores)
    sha256 = {file: plain_sha256(path / file, inside=path) for file in files}
    run = Run(name, path, config, results, lines, scores, {}, run_files.read_made_of(path), sha256)
    if not with_gallery:
        return run
    gallery = run_files.read_gallery(path, run.headline_split, len(classes))
    return dataclasses.replace(run, gallery=gallery)
