import json

import pytest

from experiments.speed import startup


@pytest.mark.parametrize("trained_first", [".", "held_out"])
def test_the_phases_show_in_the_files_of_a_run(tmp_path, trained_first):
    printed, workdir = tmp_path / "first.txt", tmp_path / "first"
    printed.touch()
    metrics = workdir / trained_first / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    assert startup.finished(workdir, printed) == []
    printed.write_text("the rules\n")
    assert startup.finished(workdir, printed) == ["imports"]
    (workdir / "config.json").touch()
    assert startup.finished(workdir, printed) == ["imports", "data"]
    metrics.write_text(json.dumps({"step": 0, "epoch": 0.0}) + "\n")
    assert startup.finished(workdir, printed) == ["imports", "data", "head"]
    with metrics.open("a") as file:
        file.write(json.dumps({"step": 1, "loss": 0.7}) + "\n")
    assert startup.finished(workdir, printed) == list(startup.PHASES)
