"""Checkpoints: the only module that knows orbax.

orbax restores a file with a flipped byte without a word, so each checkpoint carries a manifest: the
step and the run that it is of, and the sha256 of its files. One that does not match is set aside,
and the one before takes its place. Files that the manifest does not name are ignored.
"""

import errno
import functools
import logging as python_logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from vtl import processes
from vtl.errors import UserError
from vtl.files import file_sha256, set_aside, write_json
from vtl.run_directory import MANIFEST
from vtl.schema import Check, count, dict_of, maybe, of_file, record, text
from vtl.training.state import TrainState, replicate, replicated
from vtl.untrusted import plain_sha256, printable, read_json, reading

_UNSCORED = -1.0
_OVERHEAD_BYTES = 1 << 20
_MAX_INODES = 200
"""What a checkpoint takes: some 30 files and directories, more where it is large."""
_MAX_FILE_BYTES = 1 << 36
"""Of a file of a checkpoint: all of a ResNet-152's state takes half a gigabyte."""

_STEP = re.compile(r"0|[1-9][0-9]*")
"""What orbax takes for a checkpoint's name; a file `.DS_Store` or a directory `old` is none."""

_MAX_STEP_DIGITS = 12
_UNSEALED = re.compile(r"\.([0-9]+)\.unsealed")
"""Beside a checkpoint that is being written: until it has its manifest nobody else has seen it."""

_OBSOLETE = re.compile(r"\.[0-9]+\.obsolete|[0-9]+\.orbax-checkpoint-tmp.*")
"""A checkpoint that is being removed, or orbax's of one that is being written."""

_OLD_MANIFEST: Check = dict_of(text, least=1)
"""Of vtl 0.1: the files alone."""

_NEW_MANIFEST: Check = record({"step": count, "run": maybe(text), "files": dict_of(text, least=1)})


class Checkpoints:
    """The latest two states of a run, and the best by the score `best_by` if it names one.

    Opening the directory sets checkpoints that are damaged, or that belong to something else, aside
    in the directory above, with a warning, and removes what a kill left half written or half
    removed. The first process does all that; each has all of the state, whatever saved it.
    """

    def __init__(self, directory: Path, *, best_by: str | None, run: str | None = None):
        """`run` is the id of the run that made the checkpoints; those of vtl 0.1 name none.

        Raises:
            UserError: what is damaged can't be set aside.
            OSError: the directory can't be made.
        """

        self._best_by = best_by
        self._run = run
        self._directory = Path(os.path.realpath(directory))
        self._sealing: threading.Thread | None = None
        self._failure: Exception | None = None
        self._open()

    @processes.by_first
    def _open(self) -> None:
        def score(scores: dict[str, float]) -> float:
            return scores["score"]

        _clear(self._directory, self._run)  # before orbax reads what would make it fail
        self._directory.mkdir(parents=True, exist_ok=True)
        # All are kept: `_thin_out` removes those that aren't needed, so that a kill leaves no half
        # of one. Without `best_fn` orbax writes no scores.
        ocp = _orbax()
        options = ocp.CheckpointManagerOptions(
            best_fn=score if self._best_by else None,
            create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}
            ),
        )
        with reading(self._directory):
            self._manager = ocp.CheckpointManager(self._directory, options=options)

    @processes.in_first
    def save(self, state: TrainState, scores: dict[str, float] | None = None) -> None:
        """Wait for the last save, then start writing `state` in the background.

        Raises:
            OSError: the disk is full.
        """
        self.wait()
        if not state.step.is_fully_addressable:  # orbax would ask the other processes
            state = jax.tree.map(np.array, state)
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        # Checked here, because orbax's threads print pages of tracebacks on a full disk.
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _OVERHEAD_BYTES
        if shutil.disk_usage(self._directory).free < needed or _has_few_inodes(self._directory):
            raise OSError(errno.ENOSPC, "No space left on device", str(self._directory))
        self._mark(step).touch()
        scored = {"score": (scores or {}).get(self._best_by, _UNSCORED)} if self._best_by else None
        self._manager.save(step, args=_orbax().args.StandardSave(state), metrics=scored)
        self._sealing = threading.Thread(target=self._seal, args=(step,))
        self._sealing.start()

    @processes.in_first
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

    @processes.by_first
    def latest(self) -> int | None:
        """The newest step, or None."""
        return self._manager.latest_step()

    @processes.by_first
    def best(self) -> int | None:
        """The undamaged step with the highest `best_by`, or None if none has that score.

        Of several that are equally good, it is the oldest: training that is no better isn't used.
        """
        if not self._best_by:
            return None
        steps = self._manager.all_steps()
        whole = [step for step in steps if not _damage(self._path(step), self._run)]
        best = max(whole, key=self._rank, default=None)
        return None if best is None or self._score(best) == _UNSCORED else best

    def restore(self, step: int, like: TrainState, mesh: Mesh) -> TrainState:
        """The state of `step` in the shapes of `like`, on every device of the mesh.

        Raises:
            UserError: it can't be read, or is of another step or another network.
        """
        if processes.count() > 1:
            blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
            return replicate(self._read(step, blank) if processes.is_first() else blank, mesh)
        sharding = replicated(mesh)
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like
        )
        return self._read(step, abstract)

    def _read(self, step: int, like: TrainState) -> TrainState:
        path = self._path(step)
        with reading(path, "move it away, and the one before takes its place"):
            _check_shapes(path, like)
            state = self._manager.restore(step, args=_orbax().args.StandardRestore(like))
            found = int(state["step"] if isinstance(state, dict) else state.step)
        if found != step:  # the manifest says so too, but for those of vtl 0.1
            raise UserError(
                f"{printable(path)} holds the state of step {found}: move it away, and the one "
                "before takes its place"
            )
        return state

    @processes.in_first
    def close(self) -> None:
        """Finish the save under way and release the directory."""
        self.wait()
        self._manager.close()

    def _path(self, step: int) -> Path:
        return self._directory / str(step)

    def _mark(self, step: int) -> Path:
        return self._directory / f".{step}.unsealed"

    def _score(self, step: int) -> float:
        return self._manager.metrics(step)["score"]

    def _rank(self, step: int) -> tuple[float, int]:
        return self._score(step), -step

    def _seal(self, step: int) -> None:
        try:
            self._manager.wait_until_finished()
            directory = self._path(step)
            paths = sorted(p for p in directory.rglob("*") if p.is_file())
            hashes = {p.relative_to(directory).as_posix(): file_sha256(p) for p in paths}
            if not self._mark(step).exists():  # orbax makes anew what is renamed or removed
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(directory))
            manifest = {"step": step, "run": self._run, "files": hashes}
            write_json(directory / MANIFEST, manifest)
            self._mark(step).unlink()
            self._thin_out()
        except Exception as error:  # for the thread that waits
            self._failure = error

    def _thin_out(self) -> None:
        """Remove all but the latest two and the best, the oldest of those that are equally good."""
        steps = list(self._manager.all_steps())
        kept = set(steps[-2:])
        if self._best_by:
            scored = [step for step in steps if self._score(step) != _UNSCORED]
            kept |= set(sorted(scored, key=self._rank)[-1:])
        obsolete = [self._path(step) for step in steps if step not in kept]
        renamed = [path.rename(path.with_name(f".{path.name}.obsolete")) for path in obsolete]
        if renamed:
            self._manager.reload()
        for path in renamed:
            shutil.rmtree(path, ignore_errors=True)  # what is left goes with the next start


def _has_few_inodes(directory: Path) -> bool:
    """False where there are none: some file systems don't count them, others refuse the mark."""
    if not hasattr(os, "statvfs"):  # Windows
        return False
    return 0 < os.statvfs(directory).f_favail < _MAX_INODES


def _without_orbax(hook: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Keep out what becomes of orbax's other writes once one has failed: a traceback for each."""

    def report(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    return report


sys.unraisablehook = _without_orbax(sys.unraisablehook)


@functools.cache
def _orbax() -> Any:
    """orbax.checkpoint takes 0.2 s to import; a finished run is shown without it."""
    import orbax.checkpoint

    return orbax.checkpoint


def _is_not_orbax(record: python_logging.LogRecord) -> bool:
    """Keep out orbax's dozens of log lines per save; it raises its errors as well."""
    return "orbax" not in record.pathname


python_logging.getLogger("absl").addFilter(_is_not_orbax)


def _check_shapes(path: Path, like: Any) -> None:
    """Raise UserError if a checkpoint is of another network: orbax makes that a long story."""
    with _orbax().StandardCheckpointer() as checkpointer:
        stored = _shapes(dict(checkpointer.metadata(path / "default").item_metadata))
    for name, shape in _shapes(like).items():
        if stored.get(name, shape) != shape:
            raise UserError(
                f"{printable(path)} is of another network or other classes: its {printable(name)} "
                f"is {stored[name]} and not {shape}\nChoose another --workdir."
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """`params/fc/bias` -> (20,)."""
    shapes = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        parts = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in keys)
        shapes["/".join(map(str, parts))] = tuple(leaf.shape)
    return shapes


def _clear(directory: Path, run: str | None) -> None:
    """Leave nothing in `directory` that orbax may take for a checkpoint, but what is one."""
    if not directory.is_dir():
        return
    entries = sorted(directory.iterdir())
    for path in entries:
        if _OBSOLETE.fullmatch(path.name) and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif unsealed := _UNSEALED.fullmatch(path.name):
            checkpoint = directory / unsealed[1]
            if not checkpoint.is_symlink() and not (checkpoint / MANIFEST).exists():
                shutil.rmtree(checkpoint, ignore_errors=True)
            path.unlink(missing_ok=True)
    for path in entries:
        is_step = _STEP.fullmatch(path.name) and _lies_there(path)
        if is_step and (damage := _damage(path, run)):
            _set_aside(path, damage)


def _lies_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _set_aside(path: Path, damage: str) -> None:
    try:
        target = set_aside(path, f"checkpoint_{path.name[:20]}", path.parents[1])
    except OSError as error:
        raise UserError(
            f"checkpoint {printable(path)} {damage}, and can't be renamed ({error.strerror}): move "
            "it away"
        ) from error
    logging.warning(
        "checkpoint %s %s: set aside as %s", printable(path.name, 20), damage, printable(target)
    )


def _damage(directory: Path, run: str | None) -> str | None:
    """What is wrong with a checkpoint; None if every file is as it was written."""
    if directory.is_symlink():
        return "is a link"
    if not directory.is_dir() or len(directory.name) > _MAX_STEP_DIGITS:
        return "is not one that vtl wrote"
    if not (directory / MANIFEST).exists():
        return "was never finished"
    try:
        manifest = _read_manifest(directory)
    except UserError:
        return f"is damaged ({MANIFEST} is unreadable)"
    if manifest.get("step", int(directory.name)) != int(directory.name):
        return f"is a copy of checkpoint {manifest['step']}"
    if run is not None and manifest.get("run") not in (None, run):
        return "is of another run"
    for name, expected in sorted(manifest["files"].items()):
        if reason := _change(directory, name, expected):
            return f"is damaged ({printable(name, 80)} {reason})"
    return None


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    with of_file(path):
        manifest = read_json(path, inside=directory)
        if isinstance(manifest, dict) and "files" not in manifest:
            _OLD_MANIFEST(manifest, "")
            return {"files": manifest}
        _NEW_MANIFEST(manifest, "")
    return manifest


def _change(directory: Path, name: str, expected: str) -> str | None:
    """How a file that the manifest lists is not what it was."""
    path = directory / name
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
        return "lies elsewhere"
    if not _lies_there(path):
        return "is missing"
    try:
        found = plain_sha256(path, max_bytes=_MAX_FILE_BYTES, inside=directory)
    except UserError:
        return "is no file that can be read"
    return None if found == expected else "has changed"
