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


def main(argv: list[str]) -> None:
    """Run the task; what the user can put right is told in one line, with exit status 1."""
    if len(argv) > 1:
        _fail(f"unexpected argument {argv[1]}: options look like --config.seed=1")
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_handler().setFormatter(python_logging.Formatter("vtl: %(message)s"))
    jax.config.update("jax_compilation_cache_dir", str(files.cache_dir() / "xla"))
    # Of programs that compile in less than a second, which JAX leaves out, a run has dozens.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # A CPU would begin a step before the last one's memory is free, and so need it twice.
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
        _fail(f"{error}; --config={config_file}:{variant} needs no download")
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _fail(f"the disk is full: no space left for {error.filename or workdir}")
    except (Interrupted, KeyboardInterrupt) as stop:
        console.say(f"{stop or 'stopped'}; the same command goes on from what is saved")
        sys.exit(130)


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the command line; a misspelt or mistyped option is told in one line."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        # ml_collections': a knob's name in quotes and, on a second line, what may have been meant.
        inner = error.args[0].args[0] if isinstance(error.args[0], KeyError) else error.args[0]
        name, *hint = re.findall(r"[\"'](\w+)[\"']", inner)
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
