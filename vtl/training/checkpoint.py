"""Checkpoints: the only module that knows orbax.

orbax restores a file with a flipped byte without a word, so each checkpoint carries the sha256 of
its files, and one that does not match is passed over for the one before.
"""

import json
import logging as python_logging
import shutil
import threading
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import NamedSharding
from orbax.checkpoint import checkpoint_managers

from vtl.data.fetch import file_sha256
from vtl.training.state import TrainState

_MANIFEST = "sha256.json"


class Checkpoints:
    """The latest two states of a run and, where it is scored on a val split, the best."""

    def __init__(self, directory: Path, *, best_by: str):
        keep = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(2),
                checkpoint_managers.BestN(get_metric_fn=lambda scores: scores[best_by], n=1),
            ]
        )
        self._best_by = best_by
        self._directory = directory.absolute()
        self._options = ocp.CheckpointManagerOptions(preservation_policy=keep)
        self._manager = ocp.CheckpointManager(self._directory, options=self._options)
        self._sealing: threading.Thread | None = None

    def save(self, state: TrainState, scores: dict[str, float] | None = None) -> None:
        """Start writing `state` in the background; a save still under way is waited for first."""
        self.wait()
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        scored = scores if scores and self._best_by in scores else None
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics=scored)
        self._sealing = threading.Thread(target=self._seal, args=(step,))
        self._sealing.start()

    def wait(self) -> None:
        """Return once the last save is whole and sealed on disk."""
        if self._sealing:
            self._sealing.join()
            self._sealing = None
        self._manager.check_for_errors()

    def latest(self) -> int | None:
        """The step of the newest undamaged checkpoint; damaged ones are removed, saying so."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            damage = _damage(self._path(step))
            if damage is None:
                return step
            logging.warning("checkpoint %d is damaged (%s): passed over and removed", step, damage)
            shutil.rmtree(self._path(step))
            self._manager.reload()
        return None

    def best(self) -> int | None:
        """The undamaged step with the highest `best_by`, None where none has it."""
        scored = {step: self._manager.metrics(step) for step in self._manager.all_steps()}
        scored = {step: s for step, s in scored.items() if s and not _damage(self._path(step))}
        return max(scored, key=lambda step: scored[step][self._best_by], default=None)

    def restore(self, step: int, like: TrainState, sharding: NamedSharding) -> TrainState:
        """The state of `step` in the shapes of `like`, placed by `sharding`."""
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like
        )
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def close(self) -> None:
        """Finish what is being written."""
        self.wait()
        self._manager.close()

    def _path(self, step: int) -> Path:
        return self._directory / str(step)

    def _seal(self, step: int) -> None:
        self._manager.wait_until_finished()
        directory = self._path(step)
        temporary = directory.with_name(f"{step}.{_MANIFEST}.tmp")
        temporary.write_text(json.dumps(_hashes(directory), indent=1))
        temporary.replace(directory / _MANIFEST)


def _is_not_orbax(record: python_logging.LogRecord) -> bool:
    """orbax logs dozens of lines a save through absl at INFO."""
    return "orbax" not in record.pathname or record.levelno > python_logging.INFO


python_logging.getLogger("absl").addFilter(_is_not_orbax)


def _hashes(directory: Path) -> dict[str, str]:
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != _MANIFEST)
    return {str(p.relative_to(directory)): file_sha256(p) for p in files}


def _damage(directory: Path) -> str | None:
    """What is wrong with a checkpoint, None where every file is as it was written."""
    manifest = directory / _MANIFEST
    if not manifest.exists():
        return "never finished"
    try:
        expected: dict[str, Any] = json.loads(manifest.read_text())
    except ValueError:
        return f"{_MANIFEST} is unreadable"
    found = _hashes(directory)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if expected.get(name) != found[name]:
            return f"{name} has changed"
    return None
