"""Checkpoints: the only module that knows orbax.

orbax restores a file with a flipped byte without complaint. So each checkpoint carries the sha256
of its files, and a run resumes from the newest one whose files match.
"""

import errno
import json
import logging as python_logging
import shutil
import threading
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import NamedSharding
from orbax.checkpoint import checkpoint_managers

from vtl.files import file_sha256, write_json
from vtl.training.state import TrainState

_MANIFEST = "sha256.json"
_UNSCORED = -1.0
_OVERHEAD_BYTES = 1 << 20


class Checkpoints:
    """The latest two states of a run, and the best by the score `best_by` if it names one.

    Opening the directory removes damaged checkpoints, with a warning.
    """

    def __init__(self, directory: Path, *, best_by: str | None):
        def score(scores: dict[str, float]) -> float:
            return scores["score"]

        policies: list[checkpoint_managers.PreservationPolicy] = [checkpoint_managers.LatestN(2)]
        if best_by:
            policies.append(checkpoint_managers.BestN(get_metric_fn=score, n=1))
        self._best_by = best_by
        self._directory = directory.absolute()
        _remove_damaged(self._directory)  # first, because orbax fails on some of them
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                best_fn=score if best_by else None,  # without it orbax writes no scores
            ),
        )
        self._sealing: threading.Thread | None = None
        self._failure: Exception | None = None

    def save(self, state: TrainState, scores: dict[str, float] | None = None) -> None:
        """Wait for the last save, then start writing `state` in the background.

        Raises:
            OSError: the disk is full.
        """
        self.wait()
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        # Checked here, because orbax's threads print pages of tracebacks on a full disk.
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _OVERHEAD_BYTES
        if shutil.disk_usage(self._directory).free < needed:
            raise OSError(errno.ENOSPC, "No space left on device", str(self._directory))
        metrics = None
        if self._best_by:
            metrics = {"score": (scores or {}).get(self._best_by, _UNSCORED)}
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)
        self._sealing = threading.Thread(target=self._seal, args=(step,))
        self._sealing.start()

    def wait(self) -> None:
        """Return once the last save is complete and sealed on disk.

        Raises:
            OSError: the disk is full.
        """
        if self._sealing:
            self._sealing.join()
            self._sealing = None
        if self._failure:
            failure, self._failure = self._failure, None
            if "RESOURCE_EXHAUSTED" in str(failure) or "No space left" in str(failure):
                raise OSError(errno.ENOSPC, "No space left on device", str(self._directory))
            raise failure

    def latest(self) -> int | None:
        """The newest step, or None."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The undamaged step with the highest `best_by`, or None if none has that score."""
        if not self._best_by:
            return None
        undamaged = [step for step in self._manager.all_steps() if not _damage(self._path(step))]
        scores = {step: self._manager.metrics(step)["score"] for step in undamaged}
        best = max(undamaged, key=lambda step: scores[step], default=None)
        return None if best is None or scores[best] == _UNSCORED else best

    def restore(self, step: int, like: TrainState, sharding: NamedSharding) -> TrainState:
        """The state of `step` in the shapes of `like`, placed by `sharding`."""
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like
        )
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def close(self) -> None:
        """Finish the save under way and release the directory."""
        self.wait()
        self._manager.close()

    def _path(self, step: int) -> Path:
        return self._directory / str(step)

    def _seal(self, step: int) -> None:
        try:
            self._manager.wait_until_finished()
            directory = self._path(step)
            write_json(directory / _MANIFEST, _hashes(directory))
        except Exception as error:  # wait() raises it in the main thread
            self._failure = error


def _is_not_orbax(record: python_logging.LogRecord) -> bool:
    """Keep out orbax's dozens of log lines per save; it raises its errors as well."""
    return "orbax" not in record.pathname


python_logging.getLogger("absl").addFilter(_is_not_orbax)


def _hashes(directory: Path) -> dict[str, str]:
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != _MANIFEST)
    return {str(p.relative_to(directory)): file_sha256(p) for p in files}


def _remove_damaged(directory: Path) -> None:
    steps = sorted(p for p in directory.glob("*") if p.name.isdigit())
    for checkpoint in steps:
        if damage := _damage(checkpoint):
            logging.warning(
                "checkpoint %s is damaged (%s) and was removed", checkpoint.name, damage
            )
            shutil.rmtree(checkpoint)


def _damage(directory: Path) -> str | None:
    """What is wrong with a checkpoint; None if every file is as it was written."""
    manifest = directory / _MANIFEST
    if not manifest.exists():
        return "never finished"
    try:
        expected: dict[str, str] = dict(json.loads(manifest.read_text()))
    except (ValueError, TypeError):
        return f"{_MANIFEST} is unreadable"
    actual = _hashes(directory)
    for name in sorted(expected.keys() | actual.keys()):
        if name not in actual:
            return f"{name} is missing"
        if expected.get(name) != actual[name]:
            return f"{name} has changed"
    return None
