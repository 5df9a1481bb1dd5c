"""Flags -> config -> the one task that `config.task` names.

python -m vtl.main --config=configs/finetune.py --workdir=runs/finetune
"""

from vtl import stops

if __name__ == "__main__":
    stops.exit_at_once()  # before the imports below, which take seconds

import difflib
import errno
import logging as python_logging
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from vtl import config_files, console, files
from vtl.errors import FetchError, UserError, check_choice
from vtl.relu_study import task as relu_study
from vtl.tasks import classify, features, finetune, probe
from vtl.training.loop import Interrupted
from vtl.untrusted import printable, reason_of

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What to do: configs/TASK.py or configs/TASK.py:VARIANT.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's directory; runs/TASK_VARIANT where it is not given."
)

TASKS = {
    "classify": classify.run,
    "features": features.run,
    "finetune": finetune.run,
    "probe": probe.run,
    "relu_study": relu_study.run,
}
WITHOUT_DOWNLOAD = {"relu_study": "digits"}
"""The variant of a task's config that fetches nothing, where it isn't `demo`."""

PRECISIONS = ("default", "high", "highest")

SEED_BITS = 32
"""What JAX keeps of a seed; two that differ above would give the same start."""

# ml_collections' own way to load a config file, where warnings are errors.
warnings.filterwarnings("ignore", message=r"the load_module\(\) method is deprecated")


def main(argv: list[str]) -> None:
    """Run the task; what the user can put right is told in one line, with exit status 1."""
    if len(argv) > 1:
        _fail(f"unexpected argument {argv[1]}: options look like --config.seed=1")
    console.outlive_readers()
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_handler().setFormatter(python_logging.Formatter("vtl: %(message)s"))
    config = _read_config()
    workdir = _WORKDIR.value or "runs/" + "_".join(filter(None, (config.task, config.variant)))
    try:
        check_choice("task", config.task, TASKS)
        check_choice("precision", config.precision, PRECISIONS)
        _check_values(config)
        _set_up_jax()
        stops.interrupt()
        with jax.default_matmul_precision(config.precision):
            TASKS[config.task](config, Path(workdir).expanduser())
    except FetchError as error:
        config_file = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
        variant = WITHOUT_DOWNLOAD.get(config.task, "demo")
        _fail(f"{error}; --config={config_file}:{variant} needs no download")
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(f"the disk is full: no space left for {error.filename or workdir}")
    except (Interrupted, KeyboardInterrupt) as stop:
        reason = str(stop) or "stopped"
        console.say(f"{reason}; the same command goes on from what is saved")
        stops.leave_quietly()


def _set_up_jax() -> None:
    """What a run needs of JAX, whatever the environment says.

    Raises:
        UserError: there is no device to compute on.
    """
    jax.config.update("jax_compilation_cache_dir", str(files.cache_dir() / "xla"))
    # Of programs that compile in less than a second, which JAX leaves out, a run has dozens.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # A CPU would begin a step before the last one's memory is free, and so need it twice.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_disable_jit", False)
    try:
        jax.devices()
    except Exception as error:  # JAX's own are of many kinds, AssertionError among them
        platforms = os.environ.get("JAX_PLATFORMS") or "any platform"
        raise UserError(
            f"JAX finds no device for {printable(platforms)} ({reason_of(error)}): unset "
            "JAX_PLATFORMS, or install what it names"
        ) from error


def _check_values(config: ConfigDict) -> None:
    """What no knob may be, whatever it means; and a home directory by its name.

    Raises:
        UserError: a number that is none, a seed that JAX would cut, text that no file can have.
    """
    for name, value in _knobs(config):
        values = value if isinstance(value, tuple | list) else (value,)
        for x in values:
            if isinstance(x, float) and not math.isfinite(x):
                raise UserError(f"{name} must be a finite number, got {x}")
            if isinstance(x, str) and not x.isprintable():
                raise UserError(f"{name} holds a character that can't be printed: {printable(x)}")
            is_seed = name.rpartition(".")[2] in ("seed", "seeds", "rate_seeds")
            if is_seed and not (isinstance(x, int) and 0 <= x < 1 << SEED_BITS):
                raise UserError(
                    f"{name} must be a whole number from 0 to 2**{SEED_BITS} - 1, got {x}"
                )
        if isinstance(value, str) and value.startswith("~"):
            with config.unlocked():
                config.update_from_flattened_dict({name: str(Path(value).expanduser())})


def _knobs(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _knobs(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the command line; a misspelt or mistyped option is told in one line."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        # ml_collections': a knob's name in quotes and, on a second line, what may have been meant.
        inner = error.args[0].args[0] if isinstance(error.args[0], KeyError) else error.args[0]
        name, *hint = re.findall(r"[\"'](\w+)[\"']", inner)
        hint += _nearest_knobs(name, argv)
        meant = f": did you mean {hint[0]}?" if hint else "; the config file names them all"
        _fail(f"--config has no option '{name}'{meant}")
    except (
        OSError,
        TypeError,
        ValueError,
        flags.Error,
        UserError,
    ) as error:
        # A config's own error comes as a traceback, and a misspelling with a hint below it.
        last = str(error).strip().splitlines()[-1]
        _fail(re.sub(r"^\s*(\w+Error: |\[Errno \d+\] )", "", last))


def _nearest_knobs(name: str, argv: list[str]) -> list[str]:
    """The knobs that `name` may mean: by its letters, or by their initials, as in lr."""
    given = next((x.partition("=")[2] for x in argv if x.startswith("--config=")), "")
    path, _, variant = given.partition(":")
    try:
        knobs = config_files.knobs(config_files.load(Path(path)), variant)
    except UserError:
        return []
    by_last_word = {knob.name.rpartition(".")[2]: knob.name for knob in knobs}
    nearest = difflib.get_close_matches(name, by_last_word, n=1)
    by_initials = [
        last for last in by_last_word if re.sub("_?([a-z])[a-z0-9]*", r"\1", last) == name
    ]
    return [by_last_word[last] for last in (*nearest, *by_initials)]


def _read_config() -> ConfigDict:
    if _CONFIG.value is None:
        _fail("--config is missing: for instance --config=configs/finetune.py")
    try:
        _ = _CONFIG.value.task
    except OSError:
        _fail(f"--config={config_flags.get_config_filename(flags.FLAGS['config'])}: no such file")
    return _CONFIG.value


def _fail(message: str) -> NoReturn:
    print(f"vtl: {message}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
