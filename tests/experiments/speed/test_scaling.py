import argparse
import re
from pathlib import Path

import pytest

from experiments import tables
from experiments.speed import scaling
from experiments.speed.parts import drawn_run, scoring
from vtl.report.__main__ import main as report


def row(part, value, rate):
    times = [(12 / each, 20 / each) for each in (rate, rate + 2.0, rate + 1.0)]
    return {"part": part, **scaling.summary(value, "evaluation", 12, times, 10.4)}


def test_the_rows_of_other_parts_are_kept(tmp_path):
    path = tmp_path / "scaling.csv"
    assert tables.read_csv(path) == []
    before = [row("decode", 4, 1.0), row("devices", 1, 2.0)]
    for line in before:
        line["commit"] = "the one before"
    tables.write_csv(path, before)
    tables.write_csv(
        path, scaling.replace_part(tables.read_csv(path), "devices", [row("devices", 2, 3.0)])
    )
    tables.write_csv(
        path, scaling.replace_part(tables.read_csv(path), "photos", [row("photos", 1000, 4.0)])
    )
    rows = tables.read_csv(path)
    assert [(line["part"], line["value"]) for line in rows] == [
        ("photos", "1000"),
        ("decode", "4"),
        ("devices", "2"),
    ]
    assert rows[1]["commit"] == "the one before"
    assert rows[2]["commit"] != "the one before"
    assert rows[2]["images_per_second"] == "4.0"
    assert (rows[2]["seconds"], rows[2]["cpu_seconds"]) == ("3.0", "5.0")
    assert rows[2]["range"] == "3.00 to 5.00"
    assert rows[2]["peak_anonymous_mib"] == "10"


def test_what_is_scored_are_parts_of_the_program():
    assert {*scaling.SCORED, *scaling.THRESHOLDS} == set(scoring.MEASURED)
    drawn = scoring.draw(300, 4)
    for measure in scoring.MEASURED.values():
        measure(*drawn)  # raises where the code that it measures has changed


def test_a_drawn_run_has_a_report(tmp_path):
    drawn_run.write(tmp_path / "run", 300, 4)
    assert report([str(tmp_path / "run"), "-o", str(tmp_path / "page.html")]) == 0


@pytest.mark.parametrize("name", [name for name in scaling.PARTS if name != "photos"])
def test_each_part_runs_the_programs_that_there_are(name, tmp_path, monkeypatch):
    """What a part gives to a program is as many words as that reads."""
    ran = []

    def in_part(module, scratch, *arguments, **environment):
        source = (Path(scaling.__file__).parent / "parts" / f"{module}.py").read_text()
        (usage,) = re.findall(rf"python -m experiments.speed.parts.{module} (.+) OUT.json", source)
        assert len(usage.split()) == len(arguments)
        ran.append(module)
        return [(1.0, 1.0)], 1.0

    monkeypatch.setattr(scaling, "in_part", in_part)
    monkeypatch.setattr(scaling, "whole", lambda *_, **__: ((1.0, 1.0), 1.0))
    monkeypatch.setattr(scaling, "MEGAPIXELS", (0.1,))
    options = argparse.Namespace(drawn="10", classes="4", repetitions=1)
    assert len(list(scaling.PARTS[name](options, tmp_path))) >= 1
    assert ran
