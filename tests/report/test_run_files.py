import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from tests.report.synthetic import write_run, write_study
from vtl.report import runs


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", "full")


def refusal(path):
    """The line on a run that the page can't show."""
    found, refused = runs.read_all([path])
    assert not found
    (line,) = refused
    assert line.isprintable()
    assert len(line) < len(str(path)) + 300
    return line


def change(path, **arrays):
    with np.load(path) as file:
        changed = dict(file) | arrays
    np.savez(path, allow_pickle=True, **{k: x for k, x in changed.items() if x is not None})


ODD_SCORES = {
    "it lacks 'scores'": lambda x: {"scores": None},
    "'scores' has 60 values that are NaN": lambda x: {"scores": x * [np.nan, 1, 1, 1]},
    "'scores' holds <U4 and should hold numbers": lambda x: {"scores": np.full(x.shape, "0.55")},
    r"'scores' has the shape \[60, 3\] and should have \[photos, 4\]": lambda x: {
        "scores": x[:, 1:]
    },
    r"'labels' has the shape \[59, 4\] and should have \[60, 4\]": lambda x: {"labels": x[1:] * 0},
    "'labels' holds other values than 0 and 1, such as 2": lambda x: {"labels": 0 * x + 2},
    "'difficult' has the shape": lambda x: {"difficult": x[:, 0] * 0},
    "'logits' has 240 values that are NaN": lambda x: {"logits": x * np.inf},
    r"'ids' has the shape \[1\]": lambda x: {"ids": np.array(["one"])},
    "'ids' holds text that is not Unicode": lambda x: {"ids": np.array([b"\xff"] * len(x))},
    "'classes' are not those of results.json": lambda x: {
        "classes": np.array(["a", "b", "c", "d"])
    },
    "paths holds Python objects": lambda x: {"paths": np.array([None])},
}


@pytest.mark.parametrize("message", ODD_SCORES)
def test_odd_scores(run, message):
    path = run / "scores_test.npz"
    with np.load(path) as file:
        scores = file["scores"]
    change(path, **ODD_SCORES[message](scores))
    line = refusal(run)
    assert line.startswith(str(path))
    assert re.search(message, line), line


def jpeg(side, kind="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, kind)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def one_thumbnail(content):
    """Every photo of a gallery has the same picture."""

    def changed(arrays):
        count = len(arrays["ends"])
        return {
            "thumbnails": np.tile(content, count),
            "ends": len(content) * np.arange(1, count + 1),
        }

    return changed


ODD_GALLERIES = {
    "it lacks 'map'": lambda arrays: {"map": None},
    "'ends' are not where": lambda arrays: {"ends": arrays["ends"][::-1].copy()},
    "'ends' has numbers that are not from 0": lambda arrays: {"ends": arrays["ends"] + 10**6},
    "'photo' has numbers that are not from 0": lambda arrays: {"photo": arrays["photo"] - 1},
    "'column' has numbers that are not from 0 to 3": lambda arrays: {
        "column": arrays["column"] + 1
    },
    "'kind' has nonsense": lambda arrays: {"kind": np.full(len(arrays["kind"]), "nonsense")},
    "is no class activation map": lambda arrays: {"map": np.ones((len(arrays["map"]), 1, 999))},
    "'thumbnails' has no JPEG in row 0": one_thumbnail(jpeg(9, "PNG")),
    "'thumbnails' has a large picture in row 0": one_thumbnail(jpeg(600)),
    "'labels' has the shape": lambda arrays: {"labels": arrays["labels"][:, :2]},
}


@pytest.mark.parametrize("message", ODD_GALLERIES)
def test_odd_galleries(run, message):
    path = run / "gallery_test.npz"
    with np.load(path) as file:
        arrays = dict(file)
    change(path, **ODD_GALLERIES[message](arrays))
    line = refusal(run)
    assert line.startswith(str(path))
    assert message in line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3", "'line 21' is 3 and should be an object"),
        ("{", "line 21 is no JSON"),
        ('{"loss": 1}', "it lacks line 21.epoch"),
        ('{"epoch": "x"}', "'line 21.epoch' is 'x' and should be a number"),
        ('{"epoch": 1, "loss": NaN}', "'line 21.loss' is nan and should be a number"),
        ('{"epoch": 1, "loss": 1e400}', "'line 21.loss' is inf and should be a number"),
        ("[" * 5000, "line 21 is no JSON"),
    ],
)
def test_odd_metrics(run, line, message):
    path = run / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:20]) + line + "\n")
    assert message in refusal(run)


def test_what_editors_do_to_text_is_no_damage(run):
    for name in ("config.json", "results.json"):
        content = (run / name).read_text()
        (run / name).write_text(content.replace("\n", "\r\n"), encoding="utf-8-sig")
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    found, refused = runs.read_all([run])
    assert (len(found), refused) == (1, [])
    assert len(found[0].metrics) == 21


@pytest.mark.parametrize(
    "name", ["config.json", "results.json", "metrics.jsonl", "scores_test.npz", "gallery_test.npz"]
)
def test_only_plain_files_inside_the_directory_are_read(run, tmp_path, name):
    outside = tmp_path / "outside"
    (run / name).rename(outside)
    (run / name).symlink_to(outside)
    assert "is a link that leads out of" in refusal(run)
    (run / name).unlink()
    os.mkfifo(run / name)
    assert "is a pipe and not a plain file" in refusal(run)


def test_text_is_made_printable_and_short_once(tmp_path):
    names = ("\x1b[2Jcat", "d" * 5000, "c", "e")
    run = write_run(tmp_path / "run", "full", classes=names)
    (found,), _ = runs.read_all([run])
    assert found.classes[0] == "\\x1b[2Jcat"
    assert len(found.classes[1]) == 300
    assert found.headline_result("ap")["lab"].keys() == set(found.classes)


ODD_STUDIES = {
    "'networks' has or lacks transformer": lambda results: {
        "networks": {"transformer": results["networks"]["perceptron"]}
    },
    "'networks' is null": lambda results: {"networks": None},
    "'networks.perceptron.num_epochs' is 0": lambda results: {
        "networks": {"perceptron": results["networks"]["perceptron"] | {"num_epochs": 0}}
    },
}


@pytest.mark.parametrize("message", ODD_STUDIES)
def test_odd_studies(tmp_path, message):
    run = write_study(tmp_path / "study", {"perceptron": {"sigmoid": [3.0], "relu": [2.0]}})
    path = run / "results.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps(results | ODD_STUDIES[message](results)))
    assert message in refusal(run)


def test_a_study_without_its_curves(tmp_path):
    run = write_study(tmp_path / "study", {"perceptron": {"sigmoid": [3.0], "relu": [2.0]}})
    (run / "metrics.jsonl").write_text("")
    assert "it has no line of perceptron with sigmoid" in refusal(run)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "made_of.json can't be read"),
        ("[]", "made_of.json: '' is a list of 0"),
        ('{"format_version": 1, "run": "", "content": {"data": 3}}', "'content.data' is 3"),
        ('{"a":' * 900 + "1" + "}" * 900, "made_of.json"),
        (
            json.dumps(
                {
                    "format_version": 1,
                    "run": "",
                    "content": json.loads('{"a":' * 30 + "{}" + "}" * 30),
                }
            ),
            "nested more than 20 deep",
        ),
    ],
)
def test_what_a_run_was_made_of(run, content, words):
    (run / "made_of.json").write_text(content)
    assert words in refusal(run)
