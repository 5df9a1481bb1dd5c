"""The run directory: config.json, metrics.jsonl, results.json, scores."""

import errno
import functools
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from vtl import __version__, disks, identity, processes, stored_labels
from vtl.errors import UserError
from vtl.files import (
    LOCK_NAME,
    file_sha256,
    lock,
    locked_by,
    remove_litter,
    unlock,
    whole_file,
    write_json,
    write_npz,
)
from vtl.schema import (
    ONE_LABEL,
    Check,
    answers,
    at_least,
    count,
    decisions,
    dict_of,
    learning_curve,
    list_of,
    maybe,
    number,
    of_file,
    record,
    text,
)
from vtl.untrusted import open_plain, plain_sha256, printable, read_json

MANIFEST = "sha256.json"
"""In a checkpoint that is whole: its step, its run, and the sha256 of its files."""

OUTPUTS = (
    "scores_*.npz",
    "logits_*.npz",
    "labels_*.npz",
    "gallery_*.npz",
    "curves_*.npz",
    "DF_*.npz",
    "*.safetensors",
)
"""The files whose sha256 results.json records."""

_OWN = re.compile(rf"{re.escape(LOCK_NAME)}|{identity.FILE_NAME}|\.[a-z_]+\.json\.[0-9a-f]+\.tmp")
"""What a run that was killed while it began may have left before config.json."""

_OF_OTHERS = re.compile(r"\.DS_Store|\._.*|\.nfs.*|desktop\.ini|Thumbs\.db|@eaDir")
"""What systems put into any directory that is looked at, shared or synced."""

_MAX_METRICS_BYTES = 1 << 30
_LINE = record(
    {"step": number},
    dict.fromkeys(("val_map_lab", "val_loss", "test_map_lab", "best_val_map_lab", "mix"), number),
)

_TRIAL: dict[str, Check] = {
    "num_images": count,
    "num_steps": at_least(1),
    "steps": list_of(count),
    "maps": list_of(number),
    "best_step": count,
}
_ADDED: dict[str, Check] = {
    "losses": list_of(number),
    "mixed_maps": list_of(number),
    "mixes": list_of(number),
    "best_mix": number,
}

_SCORED: dict[str, Check] = {
    "classes": list_of(text),
    "map": dict_of(dict_of(maybe(number)), least=1),
    "map_interval": dict_of(dict_of(maybe(list_of(number, length=2)))),
    "ap": dict_of(dict_of(dict_of(maybe(number)))),
    "loss": dict_of(maybe(number)),
    "binary_accuracy": dict_of(maybe(number)),
}
_RESULTS: dict[str, dict[str, Check]] = {
    "finetune": _SCORED,
    "probe": _SCORED,
    "features": {"features": text},
    "classify": {"top1": number},
    "held_out": _TRIAL,
    "learning_curve": {"curve": learning_curve},
    "learning_curve_point": {"seconds": record({"train": at_least(0)})},
    "relu_study": {"networks": dict_of(record({"activations": dict_of(record({}))}))},
}
"""What a task's results.json must hold for its outcome to be shown."""


_MAY_HOLD: dict[str, Check] = {
    "files": dict_of(text),
    "start": maybe(dict_of(number)),
    "one_label": dict_of(ONE_LABEL),
    "answers": dict_of(answers()),
    "decisions": maybe(decisions()),
    "held_out": maybe(record(_TRIAL, _ADDED)),
    "chosen_mix": number,
    "trained": dict_of(number),
    **_ADDED,
}
"""What an outcome is shown with, too, if it is there."""


SplitsNow = Callable[[], Mapping[str, stored_labels.Labelled]]
"""What gives the splits that there are now, by role."""


class RunDirectory:
    """One run's files. Each is written under a temporary name and renamed.

    One process at a time is at work in it, from `begin` to `write_results`.
    """

    def __init__(self, path: Path, config: ConfigDict):
        """Check `path`, which must be new, empty, or hold a run of the same `config` to resume.

        Raises:
            UserError: the directory holds a run of another config, or something else, or another
                process is at work in it.
        """
        self.path = path
        self._config = json.loads(config.to_json())
        self._begun_in: os.stat_result | None = None
        self._run_id = ""
        processes.check_same("config", identity.without_paths(self._config))
        self._open()

    @processes.by_first
    def _open(self) -> None:
        self._refuse_locked(locked_by(self.path))
        self._look()

    def _look(self) -> None:
        self._moved: identity.Changes = {}
        self._made_of: dict[str, Any] | None = None
        if os.path.lexists(self.path / "config.json"):
            self._moved = identity.changes(self._read("config.json", _check_config), self._config)
            self._made_of = identity.read(self.path)
            if self._moved and not (self._made_of and identity.may_have_moved(self._moved)):
                self._refuse_config()
        elif os.path.lexists(self.path) and not self.path.is_dir():
            raise UserError(f"{printable(self.path)} is no directory: choose another --workdir")
        elif not self._is_empty():
            raise UserError(
                f"{printable(self.path)} is not empty and holds no run: choose another --workdir"
            )

    def _is_empty(self) -> bool:
        entries = self.path.iterdir() if self.path.is_dir() else ()
        return all(
            _OWN.fullmatch(entry.name)
            or _OF_OTHERS.fullmatch(entry.name)
            or (entry.name == "checkpoints" and _is_litter(entry))
            for entry in entries
        )

    def _refuse_config(self) -> NoReturn:
        raise UserError(
            f"{printable(self.path)} holds a run of another config "
            f"({identity.describe(self._moved)})\nChoose another --workdir, or delete that run."
        )

    def _refuse_locked(self, note: str | None) -> None:
        if note is not None:
            raise UserError(
                f"{printable(self.path)} is in use by {printable(note) or 'another process'}: wait "
                "until it ends, or choose another --workdir"
            )

    def begin(self, content: Mapping[str, Any]) -> None:
        """Lock the directory, and write config.json: from here on it is a run of this config.

        `content` is what the run is made of, by hash: `data`, `weights`, `features`, `head_from`,
        whichever it has. A run that goes on must be made of the same.

        Raises:
            UserError: nothing can be written there, another process is at work there, or the run
                was begun with other content.
        """
        processes.check_same("content", identity.flatten(content))
        self._run_id = self._begin(content)
        processes.log_to(self.path)

    @processes.by_first
    def _begin(self, content: Mapping[str, Any]) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        note = f"process {os.getpid()} on {platform.node()} since {since}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_locked(lock(self.path, note))
            remove_litter(self.path)
            self._look()  # another process may have been at work since the first time
            if self.is_finished:
                raise UserError(
                    f"{printable(self.path)} was finished by another process just now: the same "
                    "command shows its outcome"
                )
            self.compare(content)
            self._say_what_moved()
            if self._made_of is None:
                self._made_of = identity.made_of(self._config, content)
                write_json(self.path / identity.FILE_NAME, self._made_of)
            write_json(self.path / "config.json", self._config)
            self._begun_in = os.stat(self.path)
            return self._made_of["run"]
        except UserError:
            unlock(self.path)
            raise
        except OSError as error:
            if disks.is_full(error):
                raise
            raise UserError(
                f"cannot write to --workdir={printable(self.path)}: {error.strerror}; choose "
                "another directory"
            ) from error

    def compare(self, content: Mapping[str, Any], splits: SplitsNow | None = None) -> None:
        """Refuse what is made of something else than `content`, as `begin` does, but at once.

        By `splits` and the files of the run the message says how many labels differ.

        Raises:
            UserError: the run was begun with other content, or another process has other content.
        """
        processes.check_same("content", identity.flatten(content))
        self._compare(content, splits)

    @processes.by_first
    def _compare(self, content: Mapping[str, Any], splits: SplitsNow | None) -> None:
        if self._made_of is None:
            return
        before = self._made_of["content"]
        parts = {knob.partition(".")[0] for knob in self._moved}
        if not parts <= before.keys() & content.keys():
            self._refuse_config()
        if words := identity.other_content(before, content):
            has_labels = any(word.startswith(("labels", "features")) for word in words)
            now = splits() if splits and has_labels else {}
            raise identity.other(self.path, words, stored_labels.changed_since(self.path, now))

    def _say_what_moved(self) -> None:
        if self._moved:
            logging.warning("%s: the content is the same", identity.describe(self._moved))

    @property
    def run_id(self) -> str:
        """By which a checkpoint tells that it is of this run, after `begin`."""
        return self._run_id

    @property
    @processes.by_first
    def is_finished(self) -> bool:
        """Whether results.json says so."""
        if not os.path.lexists(self.path / "results.json"):
            return False
        return self._read("results.json", record({"status": text}))["status"] == "finished"

    @processes.by_first
    def check_finished(
        self, content: Callable[[], Mapping[str, Any]], splits: SplitsNow | None = None
    ) -> None:
        """Refuse a finished run that the same command would not give, or whose files were changed.

        `content` is what can be had of what `begin` gets without fetching anything; `splits` as in
        `compare`.

        Raises:
            UserError: it was made of something else, or a file isn't the one that it wrote.
        """
        try:
            found = content()
        except UserError as error:
            if self._moved:
                raise
            logging.warning("what the run was made of can't be compared: %s", error)
        else:
            self.compare(found, splits)
            self._say_what_moved()
        for name, sha256 in self.read_results().get("files", {}).items():
            path = self.path / name
            if not os.path.lexists(path):
                logging.warning("%s is missing: its run wrote it, and it is gone", printable(path))
                continue
            if plain_sha256(path, inside=self.path) != sha256:
                raise UserError(
                    f"{printable(path)} is not what the run wrote: its sha256 is not the one in "
                    "results.json; put it back, or run again in another --workdir"
                )

        self._remove_lock_of_the_killed()

    def _remove_lock_of_the_killed(self) -> None:
        with suppress(OSError):  # whoever only reads there leaves it
            if (self.path / LOCK_NAME).exists() and lock(self.path, "") is None:
                unlock(self.path)

    @processes.by_first
    def read_results(self) -> dict[str, Any]:
        """The outcome of a finished run."""
        shown = _RESULTS.get(self._config.get("task", ""), {})
        return self._read("results.json", record(shown, _MAY_HOLD))

    def _read(self, name: str, check: Check) -> dict[str, Any]:
        path = self.path / name
        with of_file(path):
            found = read_json(path, inside=self.path)
            check(found, "")
        return found

    @processes.in_first
    def append_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Add lines to metrics.jsonl. Raises ValueError for NaN and infinity."""
        self._check_is_the_same()
        with (self.path / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)

    @processes.by_first
    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl so far.

        Raises:
            UserError: one of them is no JSON object with a step.
        """
        path = self.path / "metrics.jsonl"
        if not os.path.lexists(path):
            return []
        with open_plain(path, max_bytes=_MAX_METRICS_BYTES, inside=self.path) as file:
            whole, _, _ = file.read().rpartition(b"\n")
        lines: list[dict[str, Any]] = []
        for place, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            with of_file(f"{path}, line {place}"):
                lines.append(json.loads(line, parse_constant=_refuse))
                _LINE(lines[-1], "")
        return lines

    @processes.by_first
    def last_metric(self, name: str) -> float | None:
        """The latest value of one metric, None if there is none."""
        return next((line[name] for line in reversed(self.read_metrics()) if name in line), None)

    @processes.in_first
    def cut_metrics(self, step: int) -> None:
        """Drop the lines after `step`; a resumed run writes them again."""
        kept = [json.dumps(line) + "\n" for line in self.read_metrics() if line["step"] <= step]
        self._check_is_the_same()
        with whole_file(self.path / "metrics.jsonl") as file:
            file.write("".join(kept).encode())

    @processes.in_first
    def write_results(self, results: dict[str, Any]) -> None:
        """Write results.json, which marks the run as finished, and add where it comes from."""
        self._check_is_the_same()
        names = [name for name in ("task", "variant", "seed") if name in self._config]
        of_every_run = {name: self._config[name] for name in names} | {"status": "finished"}
        written = {"files": self._hashes()} | _provenance()
        write_json(self.path / "results.json", of_every_run | results | written)
        unlock(self.path)

    def _hashes(self) -> dict[str, str]:
        paths = sorted(path for pattern in OUTPUTS for path in self.path.glob(pattern))
        return {path.name: file_sha256(path) for path in paths}

    @processes.in_first
    def write_scores(
        self,
        role: str,
        ids: Sequence[str] | None,
        classes: Sequence[str],
        scores: np.ndarray,
        logits: np.ndarray,
        labels: np.ndarray,
        difficult: np.ndarray | None,
        label_mask: np.ndarray | None = None,
        probabilities: np.ndarray | None = None,
    ) -> None:
        """Write scores_ROLE.npz: ids [N], scores, logits, labels, difficult [N, C], classes [C].

        A key is left out if its array is None: features that vtl did not make may lack ids and
        difficult. label_mask [N, C] is there only where a label is not known, and the calibrated
        probabilities [N, C] only where there were scores to calibrate on.
        """
        arrays: dict[str, Any] = {
            "scores": scores.astype(np.float32),
            "logits": logits.astype(np.float32),
            "labels": labels,
            "classes": classes,
        }
        arrays |= {} if probabilities is None else {"probabilities": probabilities}
        arrays |= {} if ids is None else {"ids": ids}
        arrays |= {} if difficult is None else {"difficult": difficult}
        arrays |= {} if label_mask is None or np.all(label_mask) else {"label_mask": label_mask}
        self.write_arrays(f"scores_{role}", arrays)

    def write_labels(self, role: str, split: stored_labels.Labelled) -> None:
        """Write labels_ROLE.npz: ids, labels, classes and label_mask as in scores_ROLE.npz."""
        arrays: dict[str, Any] = {"ids": split.ids, "classes": split.classes}
        arrays["labels"] = np.asarray(split.labels)
        if split.label_mask is not None and not np.all(split.label_mask):
            arrays["label_mask"] = split.label_mask
        self.write_arrays(f"labels_{role}", arrays)

    @processes.in_first
    def write_arrays(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Write NAME.npz, which `np.load` reads without pickle."""
        self._check_is_the_same()
        write_npz(self.path / f"{name}.npz", arrays)

    @processes.in_first
    def write_table(self, name: str, text: str) -> None:
        """Write a CSV file, UTF-8; a lone surrogate of a file's name becomes `?`."""
        self._check_is_the_same()
        with whole_file(self.path / name) as file:
            file.write(text.encode(errors="replace"))

    def _check_is_the_same(self) -> None:
        """Nothing of a run goes into what takes the place of a directory that went away."""
        if self._begun_in and not os.path.samestat(self._begun_in, os.stat(self.path)):
            reason = "the run's directory was renamed or removed, and this is another"
            raise FileNotFoundError(errno.ENOENT, reason, str(self.path))


@processes.by_first
def begun_with(path: Path, knob: str) -> Any:
    """The value of a knob, such as `data.decode`, in the run that a directory holds; or None.

    What runs of before lack has the value that leaves what they computed.

    Raises:
        UserError: its config.json is damaged.
    """
    if not os.path.lexists(path / "config.json"):
        return None
    with of_file(path / "config.json"):
        config = read_json(path / "config.json", inside=path)
        _check_config(config, "")
    return identity.flatten(config).get(knob, identity.ADDED.get(knob))


def _is_litter(checkpoints: Path) -> bool:
    """Whether it is what orbax made anew of a directory that went away: nothing there is sealed."""
    return checkpoints.is_dir() and not any(checkpoints.glob(f"*/{MANIFEST}"))


def _check_config(value: Any, key: str) -> None:
    record({})(value, key)
    identity.flatten(value)  # which fails on what is nested too deep


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


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
    directory = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=directory, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # vtl may be installed inside somebody else's checkout, whose commit says nothing of it.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.CalledProcessError):
        return None
