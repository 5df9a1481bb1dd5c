"""What the README and the docs show is right: commands, code, links, paths."""

import argparse
import importlib
import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from sklearn.metrics import average_precision_score

from tests.devkit import write_devkit
from tests.tiny import write_weights
from vtl import places

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
LAB = ROOT / "docs" / "lab.md"
# In the order in which a newcomer reads them: the commands of later pages build on earlier runs.
GUIDES = (
    README,
    LAB,
    *(
        ROOT / "docs" / f"{name}.md"
        for name in ("weights", "run_directory", "your_photos", "deploy", "clusters")
    ),
    *(ROOT / "docs" / f"{name}.md" for name in ("results", "performance", "architecture")),
)
PAGES = (*GUIDES, ROOT / "docs" / "reliability.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
of_each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

BLOCK = re.compile(r"(<!-- not run: .+? -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


class Block(NamedTuple):
    language: str
    code: str
    is_run: bool
    """Whether it runs without a network, a GPU, photos or hours: pages mark the others."""


def blocks_of(page: Path) -> list[Block]:
    blocks = BLOCK.findall(page.read_text())
    return [Block(language, code, not mark) for mark, language, code in blocks]


def python_of(page: Path) -> list[str]:
    return [block.code for block in blocks_of(page) if block.language == "python"]


def code_spans(page: Path) -> list[str]:
    text = BLOCK.sub("", page.read_text())
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def commands_of(page: Path) -> Iterator[list[str]]:
    """The words of every command in a page's bash blocks and, where it can be run, in its text."""
    lines = [
        line
        for block in blocks_of(page)
        if block.language == "bash"
        for line in block.code.replace("\\\n", " ").splitlines()
    ]
    # The name of a verb by itself is no command.
    verb = r"(vtl |python -m vtl\.)(predict|features|weights|report|review|export)( merge| …)?"
    spans = [span for span in code_spans(page) if re.match(r"(vtl|python -m|pip) [^T]", span)]
    lines += [span for span in spans if not re.fullmatch(verb, span)]
    for line in lines:
        words = shlex.split(line, comments=True)
        for is_separator, group in itertools.groupby(words, key=("&&", "&").__contains__):
            if not is_separator:
                # Variables of the environment stand before the command.
                command = list(itertools.dropwhile(re.compile("[A-Z_]+=").match, group))
                if command:
                    yield command


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_the_readme_names_every_variant():
    for path in (ROOT / "configs").glob("[!_]*.py"):
        variants = importlib.import_module(f"configs.{path.stem}").VARIANTS
        (rows,) = re.findall(
            rf"^\| \[`{path.stem}`\].*\n(?:\| \| .*\n)*", README.read_text(), re.MULTILINE
        )
        assert {f"`:{name}`" for name in variants if name} <= set(re.findall("`:.+?`", rows))


@pytest.mark.filterwarnings("ignore:the load_module")  # ml_collections' own
@of_each_page
def test_commands_parse(page, monkeypatch):
    for command in commands_of(page):
        try:
            check(command, monkeypatch)
        except Exception as error:
            error.add_note(f"in {page.name}: {shlex.join(command)}")
            raise


def check(command: list[str], monkeypatch) -> None:
    match command:
        case ["python", "-m", "vtl.main", *options]:
            parse_task(options, monkeypatch)
        case [
            "vtl",
            "export" | "features" | "predict" | "weights" | "report" | "review" as verb,
            *options,
        ]:
            parse_verb(verb, options, monkeypatch)
        case [
            "python",
            "-m",
            "vtl.export" | "vtl.features" | "vtl.predict" | "vtl.weights" | "vtl.report" as module,
            *options,
        ]:
            parse_verb(module.removeprefix("vtl."), options, monkeypatch)
        case ["vtl", "help", task]:
            assert (ROOT / "configs" / f"{task}.py").is_file()
        case ["vtl", task, *options]:
            name, colon, variant = task.partition(":")
            parse_task([f"--config=configs/{name}.py{colon}{variant}", *options], monkeypatch)
        case ["python", "-m", module, *options] if module.startswith("experiments."):
            path = ROOT / f"{module.replace('.', '/')}.py"
            assert path.is_file()
            sources = "".join(p.read_text() for p in (ROOT / "experiments").rglob("*.py"))
            for option in (o.partition("=")[0] for o in options if o.startswith("-")):
                assert f'"{option}"' in sources
        case ["pip", "install", *options]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            for name in re.findall(r"\w+", "".join(re.findall(r"\[.+?\]", " ".join(options)))):
                assert name in extras["optional-dependencies"]
            if "-c" in options:
                assert (ROOT / options[options.index("-c") + 1]).is_file()
        case ["srun", *_] | ["mpirun", *_]:
            check(command[command.index("vtl") :], monkeypatch)
        case ["pytest" | "source" | "export" | "[", *_] | ["python", "-m", "venv", *_]:
            pass
        case _:
            raise AssertionError("no test knows this command")


def parse_task(options: list[str], monkeypatch) -> None:
    """Read the config and every override as main does: names, types and values."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, lock_config=True)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    for name, kind, *_ in places.FLAGS:
        define = flags.DEFINE_string if kind is str else flags.DEFINE_integer
        define(name, None, "", flag_values=values)
    arguments = ["vtl", *(option.replace("=configs/", f"={ROOT}/configs/") for option in options)]
    # ml_collections looks there for the knobs.
    monkeypatch.setattr("sys.argv", arguments)
    assert values(arguments) == ["vtl"]
    assert values.config.task


class Parsed(Exception):
    pass


def parse_verb(verb: str, arguments: list[str], monkeypatch) -> None:
    """Have the verb's own parser read the arguments, and stop before anything is done."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, given=None):
        parse(parser, arguments if given is None else given)
        raise Parsed

    module = importlib.import_module(f"vtl.{verb}.__main__")
    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patched.setattr(sys, "argv", [f"vtl {verb}", *arguments])
        with pytest.raises((Parsed, SystemExit)) as stop:
            module.main()
    assert isinstance(stop.value, Parsed) or not stop.value.code  # -h exits with 0


@of_each_page
def test_what_pages_import_is_there(page):
    for code in python_of(page):
        compile(code, page.name, "exec")
        for line in re.findall(r"^(?:from|import) vtl.*", code, re.MULTILINE):
            exec(line, {})


@of_each_page
def test_links_and_paths_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert anchor in [as_anchor(heading) for heading in headings], target
    for span in code_spans(page):
        if re.fullmatch(r"(configs|docs|experiments|tests|vtl|\.ci)/[\w./-]*", span):
            assert (ROOT / span).exists(), span


def as_anchor(heading: str) -> str:
    """The name that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_exercises_in_python(tmp_path, capsys):
    (code,) = python_of(LAB)
    devkit = write_devkit(tmp_path, {"trainval": 35, "test": 20})
    weights = write_weights(tmp_path / "tiny.safetensors")
    for placeholder, path in (("keras_v1", weights), ("VOCdevkit/VOC2007", devkit)):
        assert code.count(f'"{placeholder}"') == 1
        code = code.replace(f'"{placeholder}"', repr(str(path)))
    names = {}
    exec(code, names)
    printed = capsys.readouterr().out

    assert re.search(r"^layer4_1/conv2 +7 x 7 x 64 +36,864$", printed, re.MULTILINE)
    X, Y, losses = (names[name] for name in ("X", "Y", "losses"))
    assert X["trainval"].shape == (35, 64)
    assert X["test"].shape == (20, 64)
    assert len(np.unique(X["trainval"], axis=0)) == 35
    assert losses.shape == (22,)
    assert np.isfinite(losses).all()
    scores = names["probe"].predict(names["head"], X["test"])
    columns = zip(Y["test"].T, scores.T, strict=True)
    aps = [average_precision_score(y, score) for y, score in columns if y.any()]
    assert names["result"]["map"]["lab"] == pytest.approx(np.mean(aps), abs=1e-6)
    assert f"{100 * np.mean(aps):.1f} [" in printed


@pytest.mark.full
def test_a_newcomer_types_every_command_from_top_to_bottom(tmp_path):
    """In an empty home, one page after the other: no command trips over what another left."""
    for name in ("configs", "experiments", "tests", "vtl"):
        (tmp_path / name).symlink_to(ROOT / name)
    scripts = Path(sys.executable).parent
    environment = {name: v for name, v in os.environ.items() if name != "VTL_CACHE"}
    environment |= {
        "HOME": str(tmp_path),
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "VTL_OFFLINE": "1",
    }
    for page in GUIDES:
        for block in blocks_of(page):
            if not block.is_run or (block.language, page) == ("python", LAB):
                continue
            code = block.code
            if block.language == "bash":
                # The environment of these tests is installed already.
                code = re.sub(r"^pip install [^&\n]+(&& )?(pytest)?", "", code, flags=re.MULTILINE)
            shell = ["bash", "-euo", "pipefail"] if block.language == "bash" else [sys.executable]
            done = subprocess.run(
                [*shell, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{page.name}:\n{code}\n{done.stdout}\n{done.stderr}"
    report = (tmp_path / "report.html").read_text()
    for name in ("relu_study_digits", "probe_demo", "finetune_demo", "head_demo", "scratch_demo"):
        assert name in report
