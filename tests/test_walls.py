"""The walls of docs/architecture.md: who may import whom, and what only one module may do.

Each wall is a function from {module: source} to what breaks it. It is tested on vtl itself, and on
sources that break it, so that a wall that stops nothing fails.
"""

import ast
import functools
import graphlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vtl

ROOT = Path(vtl.__file__).parent

BOTTOM = {
    *("errors", "files", "console", "preprocessing", "decisions", "stops", "untrusted", "schema"),
    *("disks", "dtypes", "places", "processes"),
}
EVERYTHING_BELOW_TASKS = BOTTOM | {
    *("models", "data", "weights", "identity", "knobs", "run_directory", "training", "evaluation"),
    "stored_labels",
}
MAY_IMPORT: dict[str, set[str]] = {
    **{module: set() for module in BOTTOM},
    "untrusted": {"errors"},
    "schema": {"errors", "untrusted"},
    "disks": {"errors", "untrusted"},
    "places": {"errors", "untrusted"},
    "processes": {"console", "errors", "places", "stops", "untrusted"},
    "identity": {"errors", "schema", "untrusted"},
    "stored_labels": {"errors", "schema", "untrusted"},
    "knobs": {"errors", "files", "untrusted"},
    "dtypes": {"console", "processes"},
    "compile_cache": set(),
    "models": set(),
    "data": BOTTOM - {"console"},
    "weights": BOTTOM - {"console"} | {"data", "models"},
    "run_directory": {
        *("disks", "errors", "files", "identity", "processes", "schema", "stored_labels"),
        "untrusted",
    },
    "training": BOTTOM | {"models", "data", "run_directory"},
    "evaluation": BOTTOM | {"data", "run_directory"},
    "features": BOTTOM | {"data", "identity", "run_directory"},
    "finetuning": EVERYTHING_BELOW_TASKS,
    "probing": EVERYTHING_BELOW_TASKS,
    "learning_curve": BOTTOM | {"data", "evaluation"},
    "tasks": EVERYTHING_BELOW_TASKS | {"features", "finetuning", "learning_curve", "probing"},
    "relu_study": EVERYTHING_BELOW_TASKS - {"weights"},
    "export": BOTTOM | {"data", "evaluation", "identity", "models", "weights"},
    "report": {
        "decisions",
        "disks",
        "errors",
        "files",
        "identity",
        "stops",
        "untrusted",
        "schema",
        "stored_labels",
        "evaluation",
        "relu_study",
    },
    "predict": EVERYTHING_BELOW_TASKS - {"run_directory", "identity", "knobs"} | {"compile_cache"},
    "review": EVERYTHING_BELOW_TASKS - {"run_directory", "identity", "knobs"} | {"compile_cache"},
    "weights.__main__": BOTTOM | {"data", "models", "weights", "predict"},
    "main": EVERYTHING_BELOW_TASKS | {"compile_cache", "config_files", "tasks", "relu_study"},
    "config_files": {"errors"},
    "cli": {"config_files", "errors", "main", "stops"},
}
"""What each room of vtl (a package or a single module) may import besides itself.

A program that is listed by itself stands above its package: nobody imports it.
"""

MODELS_MAY_IMPORT = {
    *(
        "abc",
        "collections",
        "dataclasses",
        "functools",
        "math",
        "typing",
        "flax",
        "jax",
        "numpy",
        "vtl",
    ),
}

Sources = dict[str, str]
"""Dotted name of a module -> its source."""


def sources_of_vtl() -> Sources:
    sources = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("vtl", *path.relative_to(ROOT).with_suffix("").parts)
        sources[".".join(part for part in parts if part != "__init__")] = path.read_text()
    return sources


@functools.cache
def nodes(source: str) -> tuple[ast.AST, ...]:
    """All there are of a source, parsed once."""
    return tuple(ast.walk(ast.parse(source)))


def imports(source: str) -> Iterator[tuple[str, ...]]:
    """The names that a source imports anywhere; `from a import b` gives a and a.b."""
    for node in nodes(source):
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from ((node.module or "", f"{node.module}.{alias.name}") for alias in node.names)


def room(module: str) -> str:
    """`vtl.data.voc` -> `data`, `vtl.weights.__main__` -> `weights.__main__`."""
    name = module.partition(".")[2]
    return name if name in MAY_IMPORT else name.partition(".")[0]


def imported_modules(sources: Sources) -> dict[str, set[str]]:
    """Module -> the modules of `sources` that it imports, by their longest names."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        names = (max((n for n in name if n in sources), default="") for name in imports(source))
        graph[module] = {name for name in names if name and name != module}
    return graph


def calls(source: str) -> Iterator[str]:
    """The dotted names of what a source calls: `print`, `np.savez`, `path.write_text`."""
    for node in nodes(source):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def imports_against_the_way(sources: Sources) -> list[str]:
    return [
        f"{module} imports {name}"
        for module, names in imported_modules(sources).items()
        for name in sorted(names)
        if room(module) and room(name) not in {room(module), "", *MAY_IMPORT[room(module)]}
    ]


def circles(sources: Sources) -> list[str]:
    """Circles between rooms, and between modules."""
    modules = imported_modules(sources)
    # A package's __init__ stands for the package, and its modules need not wait for it.
    of_modules = {
        module: {n for n in names if not module.startswith(f"{n}.") and n != "vtl"}
        for module, names in modules.items()
    }
    of_rooms: dict[str, set[str]] = {}
    for module, names in modules.items():
        others = {room(name) for name in names} - {room(module), ""}
        of_rooms.setdefault(room(module), set()).update(others)
    cycles = []
    for graph in (of_rooms, of_modules):
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            cycles.append(" -> ".join(error.args[1]))
    return cycles


def imports_from_outside(sources: Sources) -> list[str]:
    return [
        f"{module} imports {name[0]}"
        for module, source in sources.items()
        for name in imports(source)
        if name[0].partition(".")[0] in ("configs", "experiments", "tests")
    ]


def tasks_that_import_tasks(sources: Sources) -> list[str]:
    return [
        f"{module} imports {name}"
        for module, names in imported_modules(sources).items()
        for name in names
        if room(module) == room(name) == "tasks" and "vtl.tasks" not in (module, name)
    ]


def models_that_do_more_than_compute(sources: Sources) -> list[str]:
    problems = []
    for module, source in sources.items():
        if room(module) == "models":
            problems += [
                f"{module} imports {name[0]}"
                for name in imports(source)
                if name[0].partition(".")[0] not in MODELS_MAY_IMPORT
            ]
            problems += [f"{module} calls {name}" for name in calls(source) if name in IO_CALLS]
    return problems


IO_CALLS = ("open", "print", "np.load", "np.save")


def strangers_that_know_orbax(sources: Sources) -> list[str]:
    return [
        f"{module} imports {name[0]}"
        for module, source in sources.items()
        for name in imports(source)
        if name[0].startswith("orbax") and module != "vtl.training.checkpoint"
    ]


def strangers_that_know_other_processes(sources: Sources) -> list[str]:
    """Only processes asks JAX for others; a private module of JAX is nobody else's business."""
    names = ("jax.distributed", "jax.experimental.multihost_utils", "jax._src")
    return [
        f"{module} imports {name[-1]}"
        for module, source in sources.items()
        for name in imports(source)
        if name[-1].startswith(names) and module != "vtl.processes"
    ]


def strangers_that_print(sources: Sources) -> list[str]:
    """Only console prints, and what is started from the command line."""
    return [
        f"{module} prints"
        for module, source in sources.items()
        if room(module) not in ("console", "main", "cli") and not module.endswith(".__main__")
        if "print" in calls(source)
    ]


WRITERS = {
    "vtl.files",
    "vtl.data.archives",  # out of a directory that is complete
    "vtl.data.demo",  # into a directory that is renamed once it is complete
    "vtl.data.fetch",  # a part that can be resumed, and a note that may be lost
}


def strangers_that_write_files(sources: Sources) -> list[str]:
    """Only files.whole_file writes files, so that nobody sees half of one."""
    writing = ("savez", "savez_compressed", "write_text", "write_bytes", "save_file")
    return [
        f"{module} calls {name}"
        for module, source in sources.items()
        if module not in WRITERS
        for name in calls(source)
        if name.rpartition(".")[2] in writing or name == "os.replace"
    ]


def links_that_are_believed(sources: Sources) -> list[str]:
    """Of a link to itself Path.resolve raises RuntimeError; os.path.realpath returns a path."""
    return [
        f"{module} calls {name}"
        for module, source in sources.items()
        for name in calls(source)
        if name.rpartition(".")[2] == "resolve"
    ]


def heads_by_another_name(sources: Sources) -> list[str]:
    """The head is called `vtl.models.HEAD`, never by its text."""
    return [
        f"{module} writes {node.value!r}"
        for module, source in sources.items()
        if module != "vtl.models" and room(module) != "report"
        for node in nodes(source)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and (node.value == "fc" or node.value.startswith(("fc/", "fc.", "params/fc")))
    ]


def rooms_without_a_purpose(sources: Sources) -> list[str]:
    return [name for name in sources if {"utils", "helpers", "common", "misc"} & {*name.split(".")}]


Wall = Callable[[Sources], list[str]]
WALLS: dict[Wall, Sources] = {
    imports_against_the_way: {
        "vtl.training.loop": "from vtl.evaluation import metrics",
        "vtl.evaluation.metrics": "",
    },
    circles: {
        "vtl.data.voc": "from vtl.weights.network import build",
        "vtl.weights.network": "def build():\n    from vtl.data import voc",
    },
    imports_from_outside: {"vtl.main": "import configs.finetune"},
    tasks_that_import_tasks: {
        "vtl.tasks.probe": "from vtl.tasks.finetune import run",
        "vtl.tasks.finetune": "",
    },
    models_that_do_more_than_compute: {"vtl.models.resnet": "import os\nopen('weights')"},
    strangers_that_know_orbax: {"vtl.tasks.probe": "import orbax.checkpoint as ocp"},
    strangers_that_know_other_processes: {
        "vtl.training.loop": "from jax.experimental import multihost_utils",
    },
    strangers_that_print: {"vtl.training.loop": "def run():\n    print('step')"},
    strangers_that_write_files: {"vtl.tasks.probe": "np.savez('scores.npz', scores=scores)"},
    links_that_are_believed: {"vtl.tasks.probe": "workdir.resolve()"},
    heads_by_another_name: {"vtl.training.steps": "kernel = params['fc']['kernel']"},
    rooms_without_a_purpose: {"vtl.data.utils": ""},
}
"""Each wall, and sources that break it."""


@pytest.mark.parametrize("wall", WALLS, ids=lambda wall: wall.__name__)
def test_the_wall_stands(wall: Wall) -> None:
    assert wall(sources_of_vtl()) == []


@pytest.mark.parametrize("wall", WALLS, ids=lambda wall: wall.__name__)
def test_the_wall_holds(wall: Wall) -> None:
    assert wall(WALLS[wall]) != []


def test_a_circle_within_a_package_is_seen() -> None:
    sources = {
        "vtl.data.voc": "from vtl.data.splits import Split",
        "vtl.data.splits": "from vtl.data import voc",
    }
    assert circles(sources) != []


def test_every_room_is_in_the_table() -> None:
    assert {room(module) for module in sources_of_vtl()} - {""} <= MAY_IMPORT.keys()
