"""The command `vtl`: what it starts, what it explains, and that every knob has a meaning."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

import vtl
from vtl import cli, config_files

REPOSITORY = Path(__file__).parents[1]
FILES = config_files.installed()
MODULES = {task: config_files.load(path) for task, path in FILES.items()}
CONFIGS = [(task, variant) for task in FILES for variant in config_files.variants(MODULES[task])]
TIMEOUT_S = 120


def name_of(task: str, variant: str) -> str:
    return f"{task}:{variant}" if variant else task


@pytest.fixture
def help_page(capsys):
    def call(*arguments: str) -> str:
        cli.main([*arguments])
        return capsys.readouterr().out

    return call


def error_of(*arguments: str) -> str:
    """The user's error; a string as its code makes Python exit with status 1."""
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments])
    assert isinstance(stop.value.code, str)
    assert len(stop.value.code.splitlines()) <= 3
    return stop.value.code


# The configs.


def test_the_configs_of_a_checkout_are_its_own():
    assert set(FILES.values()) == set((REPOSITORY / "configs").glob("[!_]*.py"))
    assert "finetune" in FILES


@pytest.mark.parametrize(("task", "variant"), CONFIGS)
def test_every_knob_has_a_meaning(task, variant):
    knobs = config_files.knobs(MODULES[task], variant)
    assert len(knobs) > 5
    assert [knob.name for knob in knobs if not knob.meaning] == []


@pytest.mark.parametrize(("task", "variant"), CONFIGS)
def test_every_variant_says_what_it_is(task, variant):
    assert config_files.variants(MODULES[task])[variant]
    assert MODULES[task].get_config(variant).variant == variant


@pytest.mark.parametrize("task", FILES)
def test_a_config_names_its_variants_where_one_is_unknown(task):
    with pytest.raises(ValueError, match=f"configs/{task}.py has no variant 'juggle'") as error:
        MODULES[task].get_config("juggle")
    assert all(name in str(error.value) for name in MODULES[task].VARIANTS)


def test_meanings_are_the_comments_beside_or_above():
    source = """
def get_config():
    config.task = "juggle"
    # Of whom it is not.

    config.balls = 3  # how many
    # Above, and
    # on two lines.
    config.colour = "#ff0000"
    # Not this, for one stands beside.
    config.rules = (
        (".*", 1.0),  # first match wins,
    )  # in order
    config.optim.rate = 0.1  # of the hands
    config.silent = 1
    size = 3  # nothing of a config's
    return config

def _variant(config):
    config.silent = 2  # said too late
    config.balls = 5  # five are hard
"""
    assert config_files.meanings(source) == {
        "task": "",
        "balls": "how many",
        "colour": "Above, and on two lines.",
        "rules": "first match wins, in order",
        "optim.rate": "of the hands",
        "silent": "",
    }


# Help.


@pytest.mark.parametrize("arguments", [(), ("help",), ("--help",), ("-h",), ("help", "version")])
def test_the_overview_lists_tasks_variants_and_verbs(help_page, arguments):
    rows = re.findall(r"^ {2,4}(:?\w+) +\S.*$", help_page(*arguments), re.MULTILINE)
    variants = [variant for _, variant in CONFIGS]
    assert [row for row in rows if row.startswith(":")] == [f":{name}" for name in variants if name]
    assert set(FILES) | {"export", "predict", "report", "weights", "help", "version"} <= set(rows)


@pytest.mark.parametrize(("task", "variant"), CONFIGS)
def test_help_marks_what_differs_from_the_default(help_page, task, variant):
    page = help_page("help", name_of(task, variant))
    marked = set(re.findall(r"^\* --config\.([\w.]+)=", page, re.MULTILINE))
    values, defaults = (flattened(MODULES[task].get_config(v)) for v in (variant, ""))
    differing = {name for name, value in values.items() if value != defaults[name]}
    assert marked == differing - {"variant"}


def flattened(config: ConfigDict, prefix: str = "") -> dict:
    values = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            values |= flattened(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values


@pytest.mark.parametrize(("task", "variant"), CONFIGS)
def test_what_help_prints_can_be_typed(help_page, task, variant):
    page = help_page("help", name_of(task, variant))
    printed = re.findall(r"^[* ] (--config\..*?)  \(", page, re.MULTILINE)
    options = [option for line in printed for option in shlex.split(line)]
    arguments = ["vtl", f"--config={FILES[task]}", *options]
    values = flags.FlagValues()
    flag = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    values(arguments)
    expected = MODULES[task].get_config(variant)
    expected.variant = ""
    assert flag.value.to_dict() == expected.to_dict()


def test_help_gives_type_value_and_meaning(help_page):
    page = help_page("help", "finetune:lab")
    assert (
        "* --config.data.image_size=0  (int; default 448)\n"
        "      pixels that the network sees; 0 is what the weights expect\n"
    ) in page
    assert "  --config.batch_size=32  (int)\n" in page
    assert page.startswith("vtl finetune:lab\n\nThe lab sheet to the letter")


def test_help_behind_a_task_is_that_of_the_task(help_page):
    assert help_page("finetune:lab", "--config.seed=1", "--help") == help_page(
        "help", "finetune:lab"
    )


def test_help_of_a_config_of_ones_own(help_page, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        '"""Mine."""\n\nfrom ml_collections import ConfigDict\n\n\n'
        'def get_config():\n    config = ConfigDict()\n    config.task = "finetune"\n'
        "    config.balls = 3  # how many\n    config.hands = 2\n    return config\n"
    )
    page = help_page("help", str(path))
    assert f"vtl {path}\n\nMine.\n" in page
    assert "  --config.balls=3  (int)\n      how many\n  --config.hands=2  (int)\n" in page
    path.write_text("import juggling\n")
    assert error_of("help", str(path)).startswith(f"vtl: {path}: ModuleNotFoundError: ")


def test_version(help_page):
    assert help_page("version") == help_page("--version") == f"vtl {vtl.__version__}\n"


# What is typed, and what `vtl.main` is given.


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (["finetune"], [f"--config={FILES['finetune']}"]),
        (["finetune:"], [f"--config={FILES['finetune']}"]),
        (
            ["finetune:demo", "--workdir=a b", "--config.seed", "1"],
            [f"--config={FILES['finetune']}:demo", "--workdir=a b", "--config.seed", "1"],
        ),
        (["configs/mine.py:lab", "x"], ["--config=configs/mine.py:lab", "x"]),
        (["--config=mine.py", "--workdir=x"], ["--config=mine.py", "--workdir=x"]),
        (["--workdir=x", "--config", "mine.py"], ["--workdir=x", "--config", "mine.py"]),
    ],
)
def test_options_go_on_unchanged(monkeypatch, typed, given):
    started = []
    monkeypatch.setattr(cli, "_run_task", started.append)
    cli.main(typed)
    assert started == [given]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("finetun", "there is no task or verb 'finetun': did you mean finetune?"),
        ("help probe", "there is no task or verb 'probe': did you mean linear_probe?"),
        ("finetune:scrach", "finetune has no variant 'scrach': did you mean scratch?"),
        ("help finetune:scrach", "finetune has no variant 'scrach': did you mean scratch?"),
        ("finetune:x", "finetune has no variant 'x'; it has demo, laptop, lab, head, partial, scratch"),
        ("pretrain_demo:x", "pretrain_demo has no variant 'x'; it has none"),
        ("help nowhere.py", "nowhere.py: no such file"),
        ("help finetune lab", "help takes one name, got finetune lab"),
        ("--workdir=x finetune", "name a task before its options, as in `vtl finetune --workdir"),
    ],
)
def test_errors_say_what_is_wrong_and_what_may_be_meant(typed, says):
    assert error_of(*typed.split()).startswith(f"vtl: {says}")


def test_an_unknown_verb_names_them_all():
    error = error_of("juggle")
    assert all(name in error for name in [*FILES, "export", "report", "weights", "help", "version"])


def test_another_program(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(tmp_path / "nowhere")])
    assert stop.value.code == 1
    assert "no such directory" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(["help", "weights"])
    assert stop.value.code == 0
    assert "classify" in capsys.readouterr().out


@pytest.mark.parametrize("verb", cli.PROGRAMS)
def test_a_program_calls_itself_what_was_typed(verb, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vtl"])
    with pytest.raises(SystemExit):
        cli.main([verb, "-h"])
    assert capsys.readouterr().out.startswith(f"usage: vtl {verb} ")
    program = importlib.import_module(f"vtl.{verb}.__main__")
    monkeypatch.setattr(sys, "argv", [program.__file__, "-h"])
    with pytest.raises(SystemExit):
        program.main()
    assert capsys.readouterr().out.startswith(f"usage: python -m vtl.{verb} ")


# The real thing.


def start(directory: Path, code: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", f"from vtl import cli; {code}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": ""},
        cwd=directory,
    )


def test_from_any_directory(tmp_path):
    options = ["finetune:demo", "--config.batch_size", "0"]
    process = start(tmp_path, "cli.main()", *options)
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert stdout == ""
    assert stderr.startswith("vtl: batch_size")
    assert not list(tmp_path.iterdir())


def test_help_needs_no_jax(tmp_path):
    process = start(tmp_path, "cli.main(); import sys; assert 'jax' not in sys.modules", "help")
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, stderr) == (0, "")
    assert "finetune" in stdout


def test_a_reader_that_has_gone(tmp_path):
    process = start(tmp_path, "cli.main()", "help", "finetune")
    process.stdout.close()
    with process.stderr as stderr:
        assert stderr.read() == ""
    assert process.wait(TIMEOUT_S) == 1


@pytest.mark.full
def test_a_wheel_holds_the_configs_beside_the_package(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for name in ("vtl", "configs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "."]
    subprocess.run([*command, "-w", tmp_path], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"vtl"}
    modules = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "vtl").rglob("*.py")}
    modules |= {f"vtl/configs/{path.name}" for path in FILES.values()}
    assert modules <= names
    code = "from vtl import config_files; print(config_files.installed())"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    outcome = subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert f"{tmp_path}/installed/vtl/configs/finetune.py" in outcome.stdout


@pytest.mark.parametrize(
    ("task", "workdir"),
    [("deep_features:demo", "runs/features_demo"), ("linear_probe", "runs/probe")],
)
def test_help_names_the_default_directory(task, workdir):
    assert f"Without --workdir it writes to {workdir}.\n" in cli._help([task])
