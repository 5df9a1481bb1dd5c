"""experiments/README.md is the index: every program and every result is in it, and up to date."""

import csv
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
INDEX = (EXPERIMENTS / "README.md").read_text()
LINK = re.compile(r"\]\(([^)]+)\)")
OPTIONAL = {"keras", "onnx", "onnxruntime", "onnxscript", "openvino", "playwright", "torch"}


def modules():
    paths = sorted(path for path in EXPERIMENTS.rglob("*.py") if path.name != "__init__.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


def test_every_program_is_in_the_index():
    programs = {name for name, path in modules().items() if "\ndef main(" in path.read_text()}
    assert set(re.findall(r"python -m\s(experiments[\w.]+)", INDEX)) == programs


def test_every_result_is_in_the_index_and_there():
    linked = {(EXPERIMENTS / target).resolve() for target in LINK.findall(INDEX)}
    assert [path for path in linked if not path.exists()] == []
    results = {path for kind in ("csv", "png", "svg") for path in EXPERIMENTS.rglob(f"*.{kind}")}
    assert {path.resolve() for path in results} <= linked


def test_the_commits_of_the_index_are_those_of_the_tables():
    for line in INDEX.splitlines():
        paths = [EXPERIMENTS / target for target in LINK.findall(line) if target.endswith("csv")]
        commits = set()
        for path in paths:
            with path.open(newline="") as file:
                commits |= {row["commit"][:7] for row in csv.DictReader(file)}
        if paths:
            assert set(re.findall(r"\b[0-9a-f]{7}\b", line.split("|")[-2])) == commits, line


@pytest.mark.parity  # some need PyTorch or Keras, and run again where these are
@pytest.mark.parametrize("name", modules())
def test_every_module_imports(name):
    """Nothing else runs most of them, and our mypy ignores imports that it cannot find."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")
