"""Config files as people see them: where they are, their variants, and what each knob means.

A config file is the one place of its knobs: this reads the comments that stand there. It is loaded
by its path, as ml_collections does, and imported by nothing.
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
"""What a config says about itself, for vtl to read and not for people to set."""


class Knob(NamedTuple):
    """One line of a config: `name` is dotted, as in optim.learning_rate."""

    name: str
    value: Any
    default: Any
    meaning: str


def installed() -> dict[str, Path]:
    """Task -> the config file that comes with vtl: a checkout's own, in an editable install too."""
    package = Path(__file__).parent
    directory = package / "configs"
    if not directory.is_dir():
        directory = package.parent / "configs"
    files = sorted(directory.glob("*.py"))
    return {path.stem: path for path in files if path.stem != "__init__"}


def load(path: Path) -> ModuleType:
    """The config file as a module.

    Raises:
        UserError: the file is not there, or fails.
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


def variants(module: ModuleType) -> dict[str, str]:
    """Variant -> its docstring; the default is "". A file without VARIANTS has none but that."""
    functions = getattr(module, "VARIANTS", {"": None})
    return {name: inspect.getdoc(function) or "" for name, function in functions.items()}


def knobs(module: ModuleType, variant: str = "") -> list[Knob]:
    """Every knob of a variant in the order of the file.

    Raises:
        UserError: the config's own complaint about the variant.
    """
    try:
        default = module.get_config()
        config = module.get_config(variant) if variant else default
    except Exception as error:
        raise UserError(f"{module.__file__}: {error}") from error
    defaults = dict(_flattened(default.to_dict()))
    values = dict(_flattened(config.to_dict()))
    known = meanings(Path(str(module.__file__)).read_text(encoding="utf-8"))
    names = [name for name in known if name in values] + [n for n in values if n not in known]
    return [
        Knob(name, values[name], defaults.get(name), known.get(name, ""))
        for name in names
        if name not in NOT_KNOBS
    ]


def _flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def meanings(source: str) -> dict[str, str]:
    """Knob -> the comment beside its first `config.KNOB = ...`, or else the lines right above it.

    In the order of the source.
    """
    lines = source.splitlines()
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
    alone = {number for number in comments if lines[number - 1].lstrip().startswith("#")}

    def meaning(statement: ast.Assign) -> str:
        beside = [n for n in _lines(statement) if n in comments and n not in alone]
        if beside:
            return " ".join(comments[number] for number in beside)
        first = statement.lineno
        while first - 1 in alone:
            first -= 1
        return " ".join(comments[number] for number in range(first, statement.lineno))

    found: dict[str, str] = {}
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign)]
    for statement in sorted(statements, key=lambda node: node.lineno):
        root, _, name = ast.unparse(statement.targets[0]).partition(".")
        if root == "config" and name and name not in found:
            found[name] = meaning(statement)
    return found


def _lines(statement: ast.Assign) -> range:
    return range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
