"""The run directory: config.json, metrics.jsonl, results.json, scores."""

import errno
import functools
import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vtl import __version__
from vtl.errors import UserError
from vtl.files import whole_file, write_json, write_npz


class RunDirectory:
    """The files of one run. Each is written under a temporary name and then renamed."""

    def __init__(self, path: Path, config: ConfigDict):
        """Check `path`, which must be new, empty, or hold a run of the same `config` to resume.

        Raises:
            UserError: the directory holds a run of another config, or something else.
        """
        self.path = path
        self._config = json.loads(config.to_json())
        if (path / "config.json").exists():
            before = _read_json(path / "config.json")
            if before != self._config:
                raise UserError(
                    f"{path} holds a run of another config ({_differences(before, self._config)})\n"
                    "Choose another --workdir, or delete that run."
                )
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} is not empty and holds no run: choose another --workdir")

    def begin(self) -> None:
        """Make the directory and write config.json, which makes it a run of this config.

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
                f"cannot write to --workdir={self.path}: {error.strerror}; choose another directory"
            ) from error

    @property
    def is_finished(self) -> bool:
        """Whether results.json says that the run is finished."""
        results = self.path / "results.json"
        return results.exists() and _read_json(results)["status"] == "finished"

    def read_results(self) -> dict[str, Any]:
        """The content of results.json, which a finished run has."""
        return _read_json(self.path / "results.json")

    def append_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Add lines to metrics.jsonl. Raises ValueError for NaN and infinity."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The complete lines of metrics.jsonl; a last line that a kill cut short is left out."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def last_metric(self, name: str) -> float | None:
        """The latest value of one metric, None if there is none."""
        return next((line[name] for line in reversed(self.read_metrics()) if name in line), None)

    def cut_metrics(self, step: int) -> None:
        """Drop the lines after `step`; a resumed run writes them again."""
        kept = [json.dumps(line) + "\n" for line in self.read_metrics() if line["step"] <= step]
        with whole_file(self.path / "metrics.jsonl") as file:
            file.write("".join(kept).encode())

    def write_results(self, results: dict[str, Any]) -> None:
        """Write results.json, which marks the run as finished, and add where it comes from."""
        names = [name for name in ("task", "variant", "seed") if name in self._config]
        run = {name: self._config[name] for name in names} | {"status": "finished"}
        write_json(self.path / "results.json", run | results | _provenance())

    def write_scores(
        self,
        role: str,
        ids: Sequence[str] | None,
        classes: Sequence[str],
        scores: np.ndarray,
        logits: np.ndarray,
        labels: np.ndarray,
        difficult: np.ndarray | None,
    ) -> None:
        """Write scores_ROLE.npz: ids [N], scores, logits, labels, difficult [N, C], classes [C].

        A key is left out if its array is None: features that vtl did not make may lack ids and
        difficult.
        """
        arrays: dict[str, Any] = {
            "scores": scores.astype(np.float32),
            "logits": logits.astype(np.float32),
            "labels": labels,
            "classes": classes,
        }
        arrays |= {} if ids is None else {"ids": ids}
        arrays |= {} if difficult is None else {"difficult": difficult}
        self.write_arrays(f"scores_{role}", arrays)

    def write_arrays(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Write NAME.npz, which `np.load` reads without pickle."""
        write_npz(self.path / f"{name}.npz", arrays)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): delete the run") from None


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first three options that differ, as in `optim.learning_rate 0.1 -> 0.01`."""
    flat_before, flat_now = _flatten(before), _flatten(now)
    changes = [
        f"{key} {flat_before.get(key, 'absent')} -> {flat_now.get(key, 'absent')}"
        for key in sorted(flat_before.keys() | flat_now.keys())
        if flat_before.get(key, "absent") != flat_now.get(key, "absent")
    ]
    return ", ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _provenance() -> dict[str, Any]:
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")
    return {
        "commit": commit(),
        "versions": {"python": sys.version.split()[0], "vtl": __version__}
        | {name: metadata.version(name) for name in packages},
        "devices": [f"{device.platform}: {_device_model(device)}" for device in jax.devices()],
    }


def _device_model(device: jax.Device) -> str:
    """As in `NVIDIA H100 80GB HBM3` or `AMD EPYC 7763 64-Core Processor`."""
    return cpu_model() if device.platform == "cpu" else device.device_kind


@functools.cache
def cpu_model() -> str:
    """The processor's name as the operating system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine() or "unknown")


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that this code runs from, None if it runs from no checkout.

    It ends in `-dirty` if the checkout has uncommitted changes. The first call decides: files that
    a run writes into the checkout later do not change what ran.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    directory = Path(__file__).parent
    try:
        process = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return process.stdout.strip()
