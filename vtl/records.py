"""The run directory: config.json, metrics.jsonl, results.json, scores. And what a run prints."""

import errno
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vtl import __version__
from vtl.errors import UserError
from vtl.evaluation import metrics


def say(line: str = "") -> None:
    """Print for people, at once."""
    print(line, flush=True)


class Progress:
    """The line that is shown while a network trains, redrawn in place on a terminal."""

    def __init__(self, first_step: int, num_steps: int, batch_size: int, num_images: int):
        self._step = first_step
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._num_images = num_images
        self._timed_steps = 0
        self._timed_seconds = 0.0
        self._since: float | None = None
        self._text = f"epoch 0  step {first_step}/{num_steps}"

    def show(self, lines: list[dict]) -> None:
        """Show the mean of these steps' metrics; the first call, which compiled, sets the clock."""
        now = time.perf_counter()
        if self._since is not None:
            self._timed_steps += len(lines)
            self._timed_seconds += now - self._since
        self._since = now
        self._step = lines[-1]["step"]
        epochs = self._num_steps * self._batch_size / self._num_images
        accuracy_name = next(name for name in lines[-1] if name.endswith("accuracy"))
        loss, accuracy = (np.mean([x[name] for x in lines]) for name in ("loss", accuracy_name))
        parts = [
            f"epoch {lines[-1]['epoch']:.1f}/{epochs:.1f}",
            f"step {self._step}/{self._num_steps}",
            f"loss {loss:.4f}",
            f"{accuracy_name.replace('_', ' ')} {accuracy:.2%}",
        ]
        if self._timed_steps:
            seconds = self._timed_seconds / self._timed_steps
            parts += [f"{self._batch_size / seconds:.1f} images/s"]
            parts += [f"{format_seconds((self._num_steps - self._step) * seconds)} left"]
        self._text = "  ".join(parts)
        if sys.stdout.isatty():
            print(f"\r\033[K{self._text}", end="", flush=True)

    def end_epoch(self, scores: dict[str, float]) -> None:
        """Leave the epoch's last line standing, with its scores; what follows is not timed."""
        scored = "".join(f"  {name.replace('_', ' ')} {v:.2%}" for name, v in scores.items())
        say(("\r\033[K" if sys.stdout.isatty() else "") + self._text + scored)
        self._since = time.perf_counter()

    def speed(self) -> dict[str, float]:
        """The images a second of the training steps so far, where any was timed."""
        if not self._timed_steps:
            return {}
        return {"images_per_second": self._timed_steps * self._batch_size / self._timed_seconds}


def format_seconds(seconds: float) -> str:
    """`2 h 05 min`, `3 min 20 s` or `41 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


class RunDirectory:
    """One run's files. Each is written under a temporary name and renamed."""

    def __init__(self, path: Path, config: ConfigDict):
        """Look at `path`: nothing yet, or a run of the same `config` to go on with.

        Raises:
            UserError: the directory holds a run of another config, or something else.
        """
        self.path = path
        self._config = json.loads(config.to_json())
        if (path / "config.json").exists():
            before = _read_json(path / "config.json")
            if before != self._config:
                raise UserError(
                    f"{path} holds a run of another config ({_differences(before, self._config)}): "
                    "choose another --workdir, or remove it"
                )
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} is not empty and holds no run: choose another --workdir")

    def begin(self) -> None:
        """Make the directory and write config.json: from here on it is a run of this config.

        Raises:
            UserError: nothing can be written there.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / "config.json", self._config)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise UserError(
                f"cannot write into --workdir={self.path}: {error.strerror}; choose another"
            ) from error

    @property
    def is_finished(self) -> bool:
        """Whether results.json says so."""
        results = self.path / "results.json"
        return results.exists() and _read_json(results)["status"] == "finished"

    def read_results(self) -> dict:
        """The outcome of a finished run."""
        return _read_json(self.path / "results.json")

    def append_metrics(self, lines: list[dict]) -> None:
        """Add lines to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)

    def read_metrics(self) -> list[dict]:
        """All whole lines of metrics.jsonl so far."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def last_metric(self, name: str) -> float | None:
        """The newest value of one metric."""
        return next((line[name] for line in reversed(self.read_metrics()) if name in line), None)

    def cut_metrics(self, step: int) -> None:
        """Drop the lines after `step`, which a resumed run writes again."""
        kept = [json.dumps(line) + "\n" for line in self.read_metrics() if line["step"] <= step]
        _replace(self.path / "metrics.jsonl", "".join(kept).encode())

    def write_results(self, results: dict) -> None:
        """Write results.json, with what every run records of itself."""
        write_json(self.path / "results.json", results | _provenance())

    def write_scores(
        self,
        role: str,
        ids: Sequence[str] | None,
        classes: Sequence[str],
        scores: np.ndarray,
        labels: np.ndarray,
        difficult: np.ndarray | None,
    ) -> None:
        """Write scores_ROLE.npz: ids [N], scores, labels, difficult [N, C], classes [C].

        Without ids or difficult, which features of foreign origin lack, those keys are left out.
        """
        arrays = {"scores": scores.astype(np.float32), "labels": labels, "classes": classes}
        arrays |= {} if ids is None else {"ids": ids}
        arrays |= {} if difficult is None else {"difficult": difficult}
        self.write_arrays(f"scores_{role}", arrays)

    def write_arrays(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Write NAME.npz, which `np.load` reads without pickle."""
        path = self.path / f"{name}.npz"
        temporary = path.with_name(f".{path.name}")
        np.savez_compressed(temporary, **arrays)
        temporary.replace(path)


def by_quantity(outcome: dict[str, dict]) -> dict[str, dict]:
    """`metrics.evaluate_scores` by split -> by quantity, then split, as results.json has it."""
    quantities = next(iter(outcome.values()))
    return {q: {role: outcome[role][q] for role in outcome} for q in quantities}


def shown_role(roles: Collection[str]) -> str:
    """The split by which a run is judged: test, or the last where there is none."""
    return "test" if "test" in roles else list(roles)[-1]


def show_outcome(run: RunDirectory) -> None:
    """Print each class of the test split, the mAP of every split by protocol, and where it lies."""
    results = run.read_results()
    roles = list(results["map"])
    shown = shown_role(roles)
    outcome = {q: of[shown] for q, of in results.items() if q in metrics.QUANTITIES}
    say(f"\nOn {shown}:")
    say(metrics.format_table(outcome, results["classes"]))
    for role in roles:
        means = results["map"][role]
        parts = [f"{name} {100 * v:.1f}" for name, v in means.items() if v is not None]
        accuracy, loss = results["binary_accuracy"][role], results["loss"][role]
        say(f"mAP on {role}: {', '.join(parts)}; binary accuracy {accuracy:.2%}, loss {loss:.4f}")
    say(f"All of it is in {run.path}.")


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name and rename it."""
    _replace(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not readable as JSON ({error}): remove the run") from None


def _differences(before: dict, now: dict) -> str:
    """`optim.learning_rate 0.1 -> 0.01`, for the first three that differ."""
    flat_before, flat_now = _flatten(before), _flatten(now)
    changes = [
        f"{key} {flat_before.get(key, 'absent')} -> {flat_now.get(key, 'absent')}"
        for key in sorted(flat_before.keys() | flat_now.keys())
        if flat_before.get(key, "absent") != flat_now.get(key, "absent")
    ]
    return ", ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")


def _flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _provenance() -> dict:
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")
    return {
        "commit": commit(),
        "versions": {"python": sys.version.split()[0], "vtl": __version__}
        | {name: metadata.version(name) for name in packages},
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
    }


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that the code runs from, `-dirty` if it was changed since.

    As it is at the first call: what a run writes into the checkout doesn't change what ran.
    """
    git = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
    ]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
