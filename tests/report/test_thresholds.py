"""The table of answers at thresholds: what it shows, and of what it says nothing."""

import json

import numpy as np
import pytest

from tests.report.synthetic import CLASSES, labels_of, noisy_scores, write_run
from vtl.evaluation import answers, calibration
from vtl.report import page, runs, thresholds
from vtl.report.language import Language


def answered(**changes):
    """The results of a run of four classes, the last of them chosen on few photos."""
    labels, scores = labels_of("test"), noisy_scores(labels_of("test"), 2.0)
    known = np.ones_like(labels)
    given, half = scores >= np.float32(0.3), scores >= 0.5
    found = answers.evaluate(given, labels, known, CLASSES, baseline=half, num_resamples=50)
    stage = {
        "brier": calibration.brier(scores, labels, known),
        "reliability": calibration.reliability(scores, labels, known),
    }
    found |= {"before_calibration": stage, "after_calibration": stage}
    notes = ["", "", "", "a guess: few positives"]
    by_class = {
        name: {"threshold": 0.3, "interval": [0.2, 0.4], "positives": 20, "note": note}
        for name, note in zip(CLASSES, notes, strict=True)
    }
    chosen = {
        "rule": "f1",
        "chosen_on": "40 photos of val",
        "num_images": 40,
        "by_class": by_class,
        "slopes": dict.fromkeys(CLASSES, 1.0),
        "intercepts": dict.fromkeys(CLASSES, 0.0),
    }
    return {"answers": {"test": found}, "decisions": chosen} | changes


def section(tmp_path, results, code="en"):
    path = write_run(tmp_path / "run", "full", results=results)
    return thresholds.section(runs.read(path, "run"), Language(code))


def test_each_class_has_its_threshold_and_its_quantities(tmp_path):
    results = answered()
    shown = section(tmp_path, results)
    rows = {str(row[0].text): row for row in shown["table"].rows}
    assert list(rows)[: len(CLASSES)] == list(CLASSES)
    assert rows["cat"][1].text == "0.300 [0.200, 0.400]"
    assert rows["person"][1].text == "0.300 [0.200, 0.400]*"
    f1 = results["answers"]["test"]["by_class"]["cat"]["f1"]["value"]
    assert rows["cat"][4].value == f1
    assert rows["cat"][4].text.startswith(f"{100 * f1:.1f} [")
    assert "40 photos of val" in shown["note"]
    assert "few positives: person" in shown["lines"][0]
    assert len(shown["lines"]) == 3


def test_french_writes_numbers_its_own_way(tmp_path):
    shown = section(tmp_path, answered(), "fr")
    assert shown["table"].rows[0][1].text.startswith("0,300 [0,200")


def test_without_unseen_photos_it_is_a_half(tmp_path):
    results = answered(decisions=None)
    shown = section(tmp_path, results)
    assert shown["table"].rows[0][1].text == "0.500"
    assert "0.5" in shown["note"]


def test_a_run_of_old_says_nothing(tmp_path):
    path = write_run(tmp_path / "run", "full")
    run = runs.read(path, "run")
    assert thresholds.section(run, Language("en")) is None
    assert "Answers at the thresholds" not in page.make([run], [], "vtl report", Language("en"))


def test_it_is_on_the_page(tmp_path):
    run = runs.read(write_run(tmp_path / "run", "full", results=answered()), "run")
    assert "Answers at the thresholds" in page.make([run], [], "vtl report", Language("en"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: r["answers"]["test"]["by_class"].pop("cat"),
        lambda r: r["answers"]["test"]["by_class"]["cat"]["f1"].update(value="high"),
        lambda r: r["answers"]["test"].update(macro=None),
        lambda r: r["decisions"]["by_class"].pop("dog"),
        lambda r: r["decisions"]["by_class"]["dog"].update(threshold=7),
        lambda r: r["decisions"].update(rule=3),
    ],
)
def test_damage_is_one_line(tmp_path, damage):
    results = json.loads(json.dumps(answered()))
    damage(results)
    path = write_run(tmp_path / "run", "full", results=results)
    found, refused = runs.read_all([path])
    assert not found
    assert "results.json" in refused[0]
