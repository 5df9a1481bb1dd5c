import argparse
import importlib
import subprocess
import sys

import pytest

from experiments.speed import on_gpu

OPTIONS = ["on_gpu", "--root=DEVKIT", "--weights=FILE"]


class Parsed(Exception):
    pass


@pytest.mark.parity  # their peers are imported
@pytest.mark.parametrize("words", on_gpu.commands("DEVKIT", "FILE"), ids=lambda words: words[-1])
def test_each_command_parses(words, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for package in ("keras", "torch"):
        pytest.importorskip(package)
    module = importlib.import_module(words[0])
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, given=None):
        parse(parser, given)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(Parsed):
        module.main()


def test_a_dry_run_prints_every_command_and_runs_none(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [*OPTIONS, "--dry-run"])
    monkeypatch.setattr(subprocess, "run", None)
    assert on_gpu.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == [words[0] for words in on_gpu.commands("", "")]


def test_a_step_that_fails_does_not_end_the_others(monkeypatch, capsys):
    ran = []

    def run(command):
        ran.append(command[2])
        return subprocess.CompletedProcess(command, int("probe" in command[2]))

    monkeypatch.setattr(sys, "argv", OPTIONS)
    monkeypatch.setattr(subprocess, "run", run)
    assert on_gpu.main() == 1
    assert ran == [words[0] for words in on_gpu.commands("", "")]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: ")]
    assert len(said) == 1
    assert "probe_speed" in said[0]
