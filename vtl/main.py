"""Flags -> config -> the one task that `config.task` names.

python -m vtl.main --config=configs/finetune.py --workdir=runs/finetune
"""

import gc

from vtl import stops

if __name__ == "__main__":
    stops.exit_at_once()  # before the imports below, which take seconds

# Imports and tracing make millions of small objects, of which hardly any is garbage.
gc.set_threshold(100_000)

import difflib
import importlib
import logging as python_logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from vtl import compile_cache, config_files, console, disks, files, knobs, places, processes
from vtl.errors import FetchError, UserError, check_choice
from vtl.stops import Interrupted
from vtl.untrusted import printable, reason_of

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What to do: configs/TASK.py or configs/TASK.py:VARIANT.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's directory; the default is runs/TASK_VARIANT."
)

_OF_PROCESSES = {
    name: flags.DEFINE_string(name, default, meaning)
    if kind is str
    else flags.DEFINE_integer(name, default, meaning, lower_bound=least)
    for name, kind, default, meaning, least in places.FLAGS
}

TASKS = {
    "classify": "vtl.tasks.classify",
    "features": "vtl.tasks.features",
    "finetune": "vtl.tasks.finetune",
    "learning_curve": "vtl.tasks.learning_curve",
    "probe": "vtl.tasks.probe",
    "relu_study": "vtl.relu_study.task",
}
"""The module whose `run` a task is. It is imported for its task alone: all take twice as long."""

WITHOUT_DOWNLOAD = {
    "features": "vtl deep_features:demo",
    "finetune": "vtl finetune:demo",
    "learning_curve": "vtl learning_curve:demo",
    "relu_study": "vtl relu_study:digits",
}
"""What a task that may fetch something offers to those who can't."""

TOGETHER = ("classify", "features", "finetune", "learning_curve")
"""The tasks that many processes share out; the others run in the first one."""

PRECISIONS = ("default", "high", "highest")

# Without a cache of compiled programs JAX compiles again, and warns of each.
warnings.filterwarnings("ignore", message="Error writing persistent compilation cache")
# ml_collections loads config files this way; its warning must not become an error.
warnings.filterwarnings("ignore", message=r"the load_module\(\) method is deprecated")


def main(argv: list[str]) -> None:
    """Run the task. A user's error prints up to three lines and exits with status 1."""
    if len(argv) > 1:
        _fail(f"unexpected argument {argv[1]}: options look like --config.seed=1")
    console.outlive_readers()
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_handler().setFormatter(python_logging.Formatter("vtl: note: %(message)s"))
    config = _read_config()
    workdir = _WORKDIR.value or config_files.default_workdir(config.task, config.variant)
    refusals = disks.refusals(workdir, "run the same command again: it resumes")
    try:
        check_choice("task", config.task, TASKS)
        run = importlib.import_module(TASKS[config.task]).run
        # Another process may stop this one while `as_one` waits to hear what broke.
        with stops.interrupting(), processes.as_one(), refusals:
            check_choice("precision", config.precision, PRECISIONS)
            knobs.expand_paths(config)
            _configure_jax()
            if not config.get("shard"):  # which is one process's, whatever else is there
                processes.join({name: flag.value for name, flag in _OF_PROCESSES.items()})
            _check_devices()
            processes.meet()
            gc.freeze()  # else tracing networks has what was imported searched for garbage, often
            with jax.default_matmul_precision(config.precision):
                if config.task in TOGETHER:
                    run(config, files.user_path(workdir))
                elif processes.is_first():
                    with processes.alone():
                        run(config, files.user_path(workdir))
                processes.finish()
    except FetchError as error:
        _give_up(f"{error}\n`{WITHOUT_DOWNLOAD[config.task]}` needs no download.")
    except UserError as error:
        _give_up(str(error))
    except (Interrupted, KeyboardInterrupt) as stop:
        what = str(stop) or "stopped"
        _leave(f"{what}; run the same command again to resume", stops.EXIT_STATUS)


def _configure_jax() -> None:
    """Configure JAX for a run, whatever the environment says, before it looks for devices."""
    compile_cache.use(files.cache_dir() / "xla")
    # A CPU would start a step before it frees the memory of the last one, and need it twice.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_disable_jit", False)


def _check_devices() -> None:
    """Raise UserError if there is no device to compute on."""
    try:
        jax.devices()
    except Exception as error:  # JAX raises errors of many kinds here, even AssertionError
        platforms = os.environ.get("JAX_PLATFORMS") or "any platform"
        raise UserError(
            f"JAX finds no device for {printable(platforms)} ({reason_of(error)})\n"
            "Unset JAX_PLATFORMS, or install what it names."
        ) from error


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the command line. A misspelt or mistyped option prints one line and exits."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        # ml_collections quotes the unknown name and, on a second line, the nearest known one.
        inner = error.args[0].args[0] if isinstance(error.args[0], KeyError) else error.args[0]
        name, *nearest = re.findall(r"[\"'](\w+)[\"']", inner)
        nearest += _nearest_knobs(name, argv)
        hint = f": did you mean {nearest[0]}?" if nearest else "; the config file lists them all"
        _fail(f"--config has no option '{name}'{hint}")
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        nearest = _nearest_knobs(name, argv)
        hint = f": did you mean --config.{nearest[0]}?" if nearest else "; see `vtl help`"
        _fail(f"there is no option --{printable(name, 60)}{hint}")
    except (OSError, TypeError, ValueError, flags.Error, UserError) as error:
        # An error inside a config file comes with a traceback above it.
        last_line = str(error).strip().splitlines()[-1]
        _fail(re.sub(r"^\s*(\w+Error: |\[Errno \d+\] )", "", last_line))


def _nearest_knobs(name: str, argv: list[str]) -> list[str]:
    """The knobs that `name` may mean: those of similar letters, or with its initials, as in lr."""
    option = next((x for x in argv if x.startswith("--config=")), "")
    path, _, variant = option.removeprefix("--config=").partition(":")
    try:
        declared = config_files.knobs(config_files.load(Path(path)), variant)
    except UserError:
        return []
    by_last_word = {knob.name.rpartition(".")[2]: knob.name for knob in declared}
    nearest = difflib.get_close_matches(name, by_last_word, n=1)
    by_initials = [
        last for last in by_last_word if re.sub("_?([a-z])[a-z0-9]*", r"\1", last) == name
    ]
    return [by_last_word[last] for last in (*nearest, *by_initials)]


def _read_config() -> ConfigDict:
    if _CONFIG.value is None:
        _fail("--config is missing: give one, such as --config=configs/finetune.py")
    try:
        _ = _CONFIG.value.task  # the first access reads the file
    except OSError:
        _fail(f"--config={config_flags.get_config_filename(flags.FLAGS['config'])}: no such file")
    return _CONFIG.value


def _fail(message: str) -> NoReturn:
    print(f"vtl: {message}", file=sys.stderr)
    sys.exit(1)


def _give_up(message: str) -> NoReturn:
    """As `_fail`, but without waiting for threads: on a broken disk one may wait forever."""
    _leave(f"vtl: {message}", 1)


def _leave(message: str, status: int) -> NoReturn:
    message, status = processes.last_words(message, status)
    console.end_lines()
    stops.leave(message, sys.stdout if status == stops.EXIT_STATUS else sys.stderr, status)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
