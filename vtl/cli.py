"""The command `vtl`, which runs a task or another of vtl's programs from any directory.

vtl finetune:demo --workdir=runs/demo --config.optim.learning_rate=0.01
"""

import difflib
import importlib
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import Any

import vtl
from vtl import config_files, stops
from vtl.config_files import Knob
from vtl.errors import UserError

PROGRAMS = {
    "predict": "a network and photos -> a table of predictions, or a page of its errors",
    "export": "a network -> ONNX, StableHLO, torchvision, tried there before it is given out",
    "features": "merge: shards of deep features, each from its own machine -> all of them",
    "review": "labels that look wrong -> a page to answer; apply: its answers -> a new table",
    "report": "run directories -> one HTML page",
    "weights": "weight files: list, fetch, inspect, summary, convert, verify, classify",
}
"""Verb -> what it does; `python -m vtl.VERB` does the same."""

VERBS = PROGRAMS | {
    "help": "this page, or a task's knobs with their types, defaults and meanings",
    "version": "the version of vtl",
}

USAGE = """\
vtl TASK[:VARIANT] [--workdir=DIRECTORY] [--config.KNOB=VALUE ...]
vtl help TASK[:VARIANT]
vtl VERB ...

TASK may be the path of your own config file, as in `vtl mine.py:large`. Without --workdir a run
writes to a directory under runs/, which `vtl help TASK` names."""

HELP_FLAGS = ("-h", "--help")
COLUMN = 18
"""Width of the names of tasks and verbs, with their descriptions to the right."""


def start() -> None:
    """Run the console script."""
    stops.exit_at_once()  # before a task's imports, which take seconds
    main()


def main(arguments: list[str] | None = None) -> None:
    """Do what the command line says. A user's error prints its message and exits with status 1."""
    try:
        try:
            _dispatch(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except UserError as error:
        sys.exit(f"vtl: {error}")
    except BrokenPipeError:
        # The reader, such as `head`, has gone. Python flushes at exit: let it flush into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _dispatch(arguments: list[str]) -> None:
    first, *rest = arguments or ["help"]
    if first == "help" or first in HELP_FLAGS:
        print(_help(rest))
    elif first in ("version", "--version"):
        print(f"vtl {vtl.__version__}")
    elif first in PROGRAMS:
        _run_program(first, rest)
    elif first.startswith("-"):
        _check_config_is_given(arguments)
        _run_task(arguments)
    elif set(rest).intersection(HELP_FLAGS):
        print(_help([first]))
    else:
        _run_task([f"--config={_config_option(first)}", *rest])


def _run_task(arguments: list[str]) -> None:
    # JAX takes seconds to import, and help does not need it.
    from absl import app

    from vtl import main as tasks_main

    # ml_collections reads the options from sys.argv and not from what absl passes on.
    sys.argv = ["vtl", *arguments]
    app.run(tasks_main.main, flags_parser=tasks_main.parse_flags)


def _check_config_is_given(options: list[str]) -> None:
    if not any(option.lstrip("-").startswith(("config", "flagfile")) for option in options):
        raise UserError(
            f"name a task before its options, as in `vtl finetune {options[0]}`; "
            "`vtl help` lists the tasks"
        )


def _run_program(verb: str, arguments: list[str]) -> None:
    sys.argv = [f"vtl {verb}", *arguments]
    program = importlib.import_module(f"vtl.{verb}.__main__")
    with stops.in_one_line():
        sys.exit(program.main())


def _config_option(task: str) -> str:
    """`finetune:lab` -> PATH/finetune.py:lab; a path stays as it is, for its file to check."""
    path, variant = _config_file(task)
    if not _is_path(task):
        _check_variant(path.stem, variant, config_files.variants(config_files.load(path)))
    return f"{path}:{variant}" if variant else str(path)


def _config_file(task: str) -> tuple[Path, str]:
    """The file and the variant that TASK[:VARIANT] or PATH[:VARIANT] names."""
    name, _, variant = task.partition(":")
    if _is_path(task):
        return Path(name), variant
    files = config_files.installed()
    if name not in files:
        names = [*files, *VERBS]
        hint = _hint(task, names) or ": choose one of " + ", ".join(names)
        raise UserError(f"there is no task or verb '{task}'{hint}")
    return files[name], variant


def _is_path(task: str) -> bool:
    return task.partition(":")[0].endswith(".py")


def _check_variant(task: str, variant: str, variants: Collection[str]) -> None:
    if variant not in variants:
        names = [name for name in variants if name]
        hint = _hint(variant, names) or "; it has " + (", ".join(names) or "none")
        raise UserError(f"{task} has no variant '{variant}'{hint}")


def _hint(name: str, names: Collection[str]) -> str:
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f": did you mean {nearest[0]}?" if nearest else ""


# The help pages.


def _help(arguments: list[str]) -> str:
    """The help page of a task or verb, or the overview."""
    if not arguments:
        return _overview()
    if len(arguments) > 1:
        raise UserError(f"help takes one name, got {' '.join(arguments)}")
    (name,) = arguments
    if name in PROGRAMS:
        _run_program(name, ["--help"])
    if name in VERBS:
        return _overview()
    path, variant = _config_file(name)
    module = config_files.load(path)
    variants = config_files.variants(module)
    task = str(path) if _is_path(name) else path.stem
    _check_variant(task, variant, variants)
    knobs = config_files.knobs(module, variant)
    if variant:
        title = f"vtl {task}:{variant}\n\n{variants[variant]}"
        heading = f"Knobs of {variant}; * marks what differs from the default"
    else:
        doc = (module.__doc__ or "").strip()
        rows = [_row(f":{name}" if name else task, text) for name, text in variants.items()]
        title = f"vtl {task}\n\n{doc}\n\n" + "\n".join(["Variants", *rows])
        heading = "Knobs"
    workdir = config_files.workdir(module, variant)
    lines = [title, "", f"Without --workdir it writes to {workdir}.", "", heading]
    return "\n".join([*lines, *map(_describe_knob, knobs)])


def _overview() -> str:
    lines = [f"vtl {vtl.__version__}: visual transfer learning in JAX", ""]
    lines += [*textwrap.indent(USAGE, "  ").splitlines(), "", "Tasks"]
    for task, path in config_files.installed().items():
        module = config_files.load(path)
        lines.append(_row(task, module.__doc__ or ""))
        variants = config_files.variants(module)
        lines += [_row(f"  :{variant}", text) for variant, text in variants.items() if variant]
    lines += ["", "Verbs"]
    lines += [_row(verb, text) for verb, text in VERBS.items()]
    return "\n".join(lines)


def _row(name: str, text: str) -> str:
    """A name beside the first line of its description."""
    label = f"  {name}".ljust(COLUMN)
    return _wrap(text.partition("\n")[0], label + " ", " " * (COLUMN + 1))


def _describe_knob(knob: Knob) -> str:
    differs = knob.value != knob.default
    mark = "*" if differs else " "
    kind = type(knob.value).__name__
    default = f"; default {_shell_text(knob.default) or 'empty'}" if differs else ""
    line = f"{mark} --config.{knob.name}={_shell_text(knob.value)}  ({kind}{default})"
    return "\n".join([line, _wrap(knob.meaning, " " * 6, " " * 6)]).rstrip()


def _shell_text(value: Any) -> str:
    """A knob's value as one types it in a shell."""
    text = value if isinstance(value, str) else repr(value)
    if '"' not in text:
        text = text.replace("'", '"')  # shlex.quote puts single quotes around it
    return shlex.quote(text) if text else ""


def _wrap(text: str, first_indent: str, indent: str) -> str:
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    return textwrap.fill(text, width, initial_indent=first_indent, subsequent_indent=indent)
