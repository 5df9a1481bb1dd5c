"""Flags -> config -> the one task that `config.task` names.

python -m vtl.main --config=configs/finetune.py --workdir=runs/finetune
"""

import errno
import logging as python_logging
import re
import sys
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from vtl import console, files
from vtl.errors import FetchError, UserError, check_choice
from vtl.relu_study import task as relu_study
from vtl.tasks import classify, features, finetune, probe
from vtl.training.loop import Interrupted

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What to do: configs/TASK.py or configs/TASK.py:VARIANT.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's directory; the default is runs/TASK_VARIANT."
)

TASKS = {
    "classify": classify.run,
    "features": features.run,
    "finetune": finetune.run,
    "probe": probe.run,
    "relu_study": relu_study.run,
}
WITHOUT_DOWNLOAD = {"relu_study": "digits"}
"""Task -> the variant of its config that needs no download; for other tasks it is `demo`."""

PRECISIONS = ("default", "high", "highest")


def main(argv: list[str]) -> None:
    """Run the task. A user's error prints up to three lines and exits with status 1."""
    if len(argv) > 1:
        _fail(f"unexpected argument {argv[1]}: options look like --config.seed=1")
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_handler().setFormatter(python_logging.Formatter("vtl: %(message)s"))
    jax.config.update("jax_compilation_cache_dir", str(files.cache_dir() / "xla"))
    # A run has dozens of programs that compile in under a second, which JAX would not cache.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # A CPU would start a step before it frees the memory of the last one, and need it twice.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    config = _read_config()
    workdir = _WORKDIR.value or "runs/" + "_".join(filter(None, (config.task, config.variant)))
    try:
        check_choice("task", config.task, TASKS)
        check_choice("precision", config.precision, PRECISIONS)
        with jax.default_matmul_precision(config.precision):
            TASKS[config.task](config, Path(workdir))
    except FetchError as error:
        config_file = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
        variant = WITHOUT_DOWNLOAD.get(config.task, "demo")
        _fail(f"{error}\n--config={config_file}:{variant} needs no download.")
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _fail(
            f"the disk is full: no space left for {error.filename or workdir}\n"
            "Free some space, then run the same command again: it resumes."
        )
    except (Interrupted, KeyboardInterrupt) as stop:
        console.say(f"{stop or 'stopped'}; run the same command again to resume")
        sys.exit(130)


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the command line. A misspelt or mistyped option prints one line and exits."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        # ml_collections quotes the unknown name and, on a second line, the nearest known one.
        inner = error.args[0].args[0] if isinstance(error.args[0], KeyError) else error.args[0]
        name, *nearest = re.findall(r"[\"'](\w+)[\"']", inner)
        hint = f": did you mean {nearest[0]}?" if nearest else "; the config file lists them all"
        _fail(f"--config has no option '{name}'{hint}")
    except (OSError, TypeError, ValueError, flags.Error, UserError) as error:
        # An error inside a config file comes with a traceback above it.
        last_line = str(error).strip().splitlines()[-1]
        _fail(re.sub(r"^\s*(\w+Error: |\[Errno \d+\] )", "", last_line))


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


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
