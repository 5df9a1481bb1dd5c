"""Checkpoints: the only module that knows orbax.

orbax restores a file with a flipped byte without a word, so each checkpoint carries the sha256 of
its files, and one that does not match is passed over for the one before.
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
    """The latest two states of a run and, where `best_by` names a score, the best by it.

    Damaged ones are removed when the directory is opened, saying so.
    """

    def __init__(self, directory: Path, *, best_by: str | None):
        def score(scores: dict[str, float]) -> float:
            return scores["score"]

        policies: list[checkpoint_managers.PreservationPolicy] = [checkpoint_managers.LatestN(2)]
        if best_by:
            policies.append(checkpoint_managers.BestN(get_metric_fn=score, n=1))
        self._best_by = best_by
        self._directory = directory.absolute()
        _remove_damaged(self._directory)  # before orbax reads what would make it fail
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
        """Start writing `state` in the background; a save still under way is waited for first."""
        self.wait()
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        # Asked beforehand, since orbax's threads print pages of tracebacks on a full disk.
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _OVERHEAD_BYTES
        if shutil.disk_usage(self._directory).free < needed:
            raise OSError(errno.ENOSPC, "No space left on device", str(self._directory))
        scored = {"score": (scores or {}).get(self._best_by, _UNSCORED)} if self._best_by else None
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics=scored)
        self._sealing = threading.Thread(target=self._seal, args=(step,))
        self._sealing.start()

    def wait(self) -> None:
        """Return once the last save is whole and sealed on disk."""
        if self._sealing:
            self._sealing.join()
            self._sealing = None
        if self._failure:
            failure, self._failure = self._failure, None
            if "RESOURCE_EXHAUSTED" in str(failure) or "No space left" in str(failure):
                raise OSError(errno.ENOSPC, "No space left on device", str(self._directory))
            raise failure

    def latest(self) -> int | None:
        """The newest step, None where there is none."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The undamaged step with the highest `best_by`, None where none has it."""
        if not self._best_by:
            return None
        whole = [step for step in self._manager.all_steps() if not _damage(self._path(step))]
        scores = {step: self._manager.metrics(step)["score"] for step in whole}
        best = max(whole, key=lambda step: scores[step], default=None)
        return None if best is None or scores[best] == _UNSCORED else best

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
        try:
            self._manager.wait_until_finished()
            directory = self._path(step)
            write_json(directory / _MANIFEST, _hashes(directory))
        except Exception as error:  # for the thread that waits
            self._failure = error


def _is_not_orbax(record: python_logging.LogRecord) -> bool:
    """orbax logs dozens of lines a save through absl: also that a save took seconds, and errors.

    What fails it raises as well.
    """
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
                "checkpoint %s is damaged (%s): passed over and removed", checkpoint.name, damage
            )
            shutil.rmtree(checkpoint)


def _damage(directory: Path) -> str | None:
    """What is wrong with a checkpoint, None where every file is as it was written."""
    manifest = directory / _MANIFEST
    if not manifest.exists():
        return "never finished"
    try:
        expected: dict[str, str] = dict(json.loads(manifest.read_text()))
    except (ValueError, TypeError):
        return f"{_MANIFEST} is unreadable"
    found = _hashes(directory)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if expected.get(name) != found[name]:
            return f"{name} has changed"
    return None
