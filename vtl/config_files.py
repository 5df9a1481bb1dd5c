"""Config files as people see them: where they are, their variants, and what each knob means.

A knob's meaning is the comment beside it in the config file. Config files are loaded by path, as
ml_collections does it; nothing imports them.
"""

import ast
import importlib.util
import inspect
import io
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from vtl.errors import UserError

NOT_KNOBS = ("task", "variant")
"""What a config says about itself; people do not set it."""


class Knob(NamedTuple):
    """One option of a config; `name` is dotted, as in optim.learning_rate."""

    name: str
    value: Any
    default: Any
    meaning: str


def installed() -> dict[str, Path]:
    """Task -> the config file that comes with vtl; in a checkout, the one under configs/."""
    package = Path(__file__).parent
    directory = package / "configs"
    if not directory.is_dir():
        directory = package.parent / "configs"
    files = sorted(directory.glob("*.py"))
    return {path.stem: path for path in files if path.stem != "__init__"}


def load(path: Path) -> ModuleType:
    """The config file as a module.

    Raises:
        UserError: the file is missing, or running it fails.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    return module


def default_workdir(task: str, variant: str) -> str:
    """Where a run goes without --workdir; `task` is the config's, as in features."""
    return "runs/" + "_".join(filter(None, (task, variant)))


def workdir(module: ModuleType, variant: str) -> str:
    """Where a run of a config file's variant goes without --workdir."""
    return default_workdir(module.get_config().task, variant)


def variants(module: ModuleType) -> dict[str, str]:
    """Variant -> its docstring; the default is "". A file without VARIANTS has only the default."""
    functions = getattr(module, "VARIANTS", {"": None})
    return {name: inspect.getdoc(function) or "" for name, function in functions.items()}


def knobs(module: ModuleType, variant: str = "") -> list[Knob]:
    """Every knob of a variant, in the order of the file.

    Raises:
        UserError: the config file refuses the variant, or fails.
    """
    try:
        default = module.get_config()
        config = module.get_config(variant) if variant else default
    except Exception as error:
        raise UserError(f"{module.__file__}: {error}") from error
    defaults = dict(_flatten(default.to_dict()))
    values = dict(_flatten(config.to_dict()))
    comments = _comments(module)
    names = [name for name in comments if name in values]
    names += [name for name in values if name not in comments]
    return [
        Knob(name, values[name], defaults.get(name), comments.get(name, ""))
        for name in names
        if name not in NOT_KNOBS
    ]


def _comments(module: ModuleType) -> dict[str, str]:
    """The meanings that a config file gives, then those of the file that it builds on, if any."""
    own = meanings(Path(str(module.__file__)).read_text(encoding="utf-8"))
    below = getattr(module, "BUILDS_ON", None)
    others = _comments(below) if below else {}
    return own | {name: meaning for name, meaning in others.items() if not own.get(name)}


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def meanings(source: str) -> dict[str, str]:
    """Knob -> its meaning, in the order of the source.

    A meaning is the comment beside the first `config.KNOB = ...`, or else the comment lines right
    above it.
    """
    lines = source.splitlines()
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
    comment_lines = {number for number in comments if lines[number - 1].lstrip().startswith("#")}

    def meaning(statement: ast.Assign) -> str:
        beside = [
            comments[number]
            for number in _line_numbers(statement)
            if number in comments and number not in comment_lines
        ]
        if beside:
            return " ".join(beside)
        first = statement.lineno
        while first - 1 in comment_lines:
            first -= 1
        return " ".join(comments[number] for number in range(first, statement.lineno))

    meaning_of_knob: dict[str, str] = {}
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign)]
    for statement in sorted(statements, key=lambda node: node.lineno):
        root, _, name = ast.unparse(statement.targets[0]).partition(".")
        if root == "config" and name and name not in meaning_of_knob:
            meaning_of_knob[name] = meaning(statement)
    return meaning_of_knob


def _line_numbers(statement: ast.Assign) -> range:
    return range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
