"""`python -m vtl.weights`, as it is typed."""

import sys

import pytest

from tests.tiny import write_weights
from vtl.models.resnet import ResNet
from vtl.weights import __main__ as command
from vtl.weights import formats


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["vtl.weights", *map(str, arguments)])
    command.main()


def test_summary_of_a_file(tmp_path, monkeypatch, capsys):
    run(monkeypatch, "summary", write_weights(tmp_path / "tiny.safetensors"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["path", "output", "shape", "parameters"]
    assert lines[1].split() == ["conv1", "112", "x", "112", "x", "8", "1,176"]
    assert lines[-2].split() == ["fc", "7", "455"]
    counts = [int(line.split()[-1].replace(",", "")) for line in lines[1:-1]]
    assert lines[-1].startswith(f"{sum(counts):,} parameters")


def test_summary_without_a_head(tmp_path, monkeypatch, capsys):
    tensors = formats.read(write_weights(tmp_path / "tiny.safetensors")).tensors
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
    formats.write_safetensors(tmp_path / "headless.safetensors", kept, {})
    run(monkeypatch, "summary", tmp_path / "headless.safetensors")
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if line.startswith("fc")]
    statistics = sum(t.size for name, t in kept.items() if ".running_" in name)
    parameters = sum(t.size for t in kept.values()) - statistics
    assert lines[-1] == f"{parameters:,} parameters, {statistics:,} running statistics"


def test_summary_of_resnet50_has_the_published_size():
    last = command.summary(ResNet(1000), 224).splitlines()[-1]
    assert last == "25,557,032 parameters, 53,120 running statistics"


def test_what_is_not_there_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "summary", tmp_path / "nothing.safetensors")
    assert str(caught.value).startswith("vtl: weights=")
    assert "no such file or finished run" in str(caught.value)
    assert "\n" not in str(caught.value)
