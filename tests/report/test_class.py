"""The table of a class's runs: some of its students cheat, stop too early or break their files."""

import csv
import io
import json
import re
import shutil
from html import unescape

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from tests.report.synthetic import (
    CLASSES,
    NUM_STUDENTS,
    labels_of,
    noisy_scores,
    state_map,
    write_class,
    write_run,
    write_student,
)
from vtl import identity
from vtl.report import __main__ as command
from vtl.report import knobs, marks, marks_csv, ranking
from vtl.report.language import Language

APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def class_of_thirty(tmp_path_factory):
    return write_class(tmp_path_factory.mktemp("class") / "runs")


def make(root, *options, lang="en"):
    """The exit status, the page and the CSV's rows by directory."""
    target, table = root.parent / "class.html", root.parent / "marks.csv"
    given = ["--class", str(root), "-o", str(target), "--csv", str(table), "--lang", lang]
    status = command.main([*given, *options])
    text = table.read_text(encoding="utf-8").replace(APOSTROPHE, "'")
    rows = {row["directory"]: row for row in csv.DictReader(io.StringIO(text, newline=""))}
    return status, target.read_text(encoding="utf-8").replace(APOSTROPHE, "'"), rows


def section(html, name):
    (found,) = re.findall(rf'<section id="{name}">(.*?)</section>', html, re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", "", found)).split())


def map_by_scikit_learn(path):
    with np.load(path / "scores_test.npz") as file:
        columns = range(len(CLASSES))
        return np.mean(
            [average_precision_score(file["labels"][:, c], file["scores"][:, c]) for c in columns]
        )


def test_every_run_is_a_row_with_the_map_of_its_scores(class_of_thirty, capsys):
    status, _, rows = make(class_of_thirty)
    assert status == 0
    assert capsys.readouterr().out.startswith("34 runs, 30 ranked: ")
    assert len(rows) == NUM_STUDENTS + 4
    expected = {}
    for number in range(NUM_STUDENTS):
        name = f"student_{number:02}/finetune"
        expected[name] = map_by_scikit_learn(class_of_thirty / name)
        row = rows[name]
        assert row["student"] == f"student_{number:02}"
        assert (row["kind"], row["data"], row["protocol"], row["reason"]) == (
            "full",
            "pets",
            "lab",
            "",
        )
        assert float(row["map"]) == pytest.approx(expected[name], abs=1e-6)
        assert float(row["map_low"]) < float(row["map_high"])
    for name, mean in expected.items():
        assert int(rows[name]["rank"]) == 1 + sum(other > mean for other in expected.values())
    ranks = [int(row["rank"]) for row in rows.values() if row["rank"]]
    assert ranks == sorted(ranks)
    assert [bool(row["rank"]) for row in rows.values()] == [True] * NUM_STUDENTS + [False] * 4


def test_who_has_no_rank_is_named_at_the_top_with_the_reason(class_of_thirty):
    _, html, rows = make(class_of_thirty)
    forged = map_by_scikit_learn(class_of_thirty / "forger" / "finetune")
    assert float(rows["forger/finetune"]["map"]) == pytest.approx(forged, abs=1e-6)
    reasons = {
        "forger/finetune": "results.json states an mAP of 91.0 (lab) on test, but the scores "
        f"beside it give {100 * forged:.1f}.",
        "unoriginal/mine": "Its scores are those of student_03/finetune, bit for bit, and so are "
        "its times or checkpoints: files were copied.",
        "hasty/finetune": "is not finished: it has no results.json",
        "unlucky/finetune": "scores_test.npz can't be read",
    }
    for name, reason in reasons.items():
        assert reason in rows[name]["reason"], name
        assert rows[name]["rank"] == ""
        where = "ask" if name[0] in "fu" and name != "unlucky/finetune" else "others"
        assert f"{name}: {reason}" in section(html, where)
    assert html.count("91.0") == 1
    assert str(class_of_thirty) not in section(html, "others")
    assert "30 of 34 runs are ranked" in html


def test_columns_are_the_knobs_that_differ(class_of_thirty):
    _, html, rows = make(class_of_thirty)
    row = rows["student_01/finetune"]
    knobs = [column for column in row if column.startswith("config.")]
    assert knobs == ["config.seed", "config.optim.learning_rate"]
    assert (row["config.seed"], row["config.optim.learning_rate"]) == ("1", "0.01")
    headings = re.findall(r'<th scope="col"[^>]*><button[^>]*>(.*?)</button>', html)
    assert headings[-2:] == ["seed", "optim.learning_rate"]


def test_in_french(class_of_thirty):
    _, html, rows = make(class_of_thirty, lang="fr")
    assert '<html lang="fr">' in html
    assert "30 exécutions sur 34 sont classées" in html
    assert rows["unoriginal/mine"]["reason"].startswith("Ses scores sont ceux de student_03")
    assert float(rows["student_00/finetune"]["map"]) > 0.9


def test_a_cell_is_no_formula(tmp_path):
    root = tmp_path / "runs"
    write_student(root / "=HYPERLINK(1)" / "a", 1.0, thresholds="@SUM(1)")
    write_student(root / "-2+3" / "a", 2.0, thresholds="-0.5")
    _, _, rows = make(root)
    assert {row["student"] for row in rows.values()} == {"'=HYPERLINK(1)", "'-2+3"}
    assert {row["config.thresholds"] for row in rows.values()} == {"'@SUM(1)", "-0.5"}
    cells = [cell for row in rows.values() for cell in row.values()]
    assert not [cell for cell in cells if re.match(r"[=+@]|-(?!0\.5)", cell)]


def test_names_and_knobs_are_text_in_the_page(tmp_path):
    root = tmp_path / "runs"
    write_student(root / "<script>alert(1)<" / "a", 1.0, **{"<b>": "<i>"})
    write_student(root / "other\n\x1b[2J" / "a", 2.0)
    _, html, rows = make(root)
    assert "<script>alert" not in html
    assert "<i>" not in html
    assert "\x1b" not in html
    assert len(rows) == 2


def test_knobs_that_one_run_alone_has_crowd_out_no_others(tmp_path):
    root = tmp_path / "runs"
    for number in range(4):
        write_student(root / f"s{number}" / "a", 1 + number, seed=number)
    junk = {f"aaa{number:05}": number for number in range(5000)}
    write_student(root / "t" / "a", 9.0, seed=0, **junk)
    _, html, rows = make(root)
    columns = list(rows["s0/a"])
    assert len(columns) <= len(marks_csv.COLUMNS) + knobs.MAX_COLUMNS
    assert "config.seed" in columns
    assert re.search(r"\d+ more knobs differ", html)


def other_labels(path):
    """Another label in the scores, and results to match."""
    shutil.rmtree(path)
    labels = {role: labels_of(role) for role in ("train", "test")}
    scores = {role: noisy_scores(of, 1.5) for role, of in labels.items()}
    labels["test"] = labels["test"].copy()
    labels["test"][:5] = 1 - labels["test"][:5]
    write_run(path, "full", labels=labels, scores=scores)


def test_labels_are_those_of_most(tmp_path):
    root = tmp_path / "runs"
    for number in range(4):
        write_student(root / f"s{number}" / "a", 1 + number)
    other_labels(root / "s2" / "a")
    _, html, rows = make(root)
    assert rows["s2/a"]["reason"] == "Its labels aren't those of 3 other runs on the same photos."
    assert [rows[f"s{number}/a"]["rank"] for number in range(4)] == ["1", "2", "", "3"]
    assert "s2/a: Its labels" in section(html, "ask")


def test_labels_that_none_shares_leave_nobody_ranked(tmp_path):
    root = tmp_path / "runs"
    for number in range(2):
        write_student(root / f"s{number}" / "a", 1 + number)
    other_labels(root / "s1" / "a")
    _, _, rows = make(root)
    assert [row["rank"] for row in rows.values()] == ["", ""]


def test_photos_that_were_left_out_leave_it_out(tmp_path):
    root = tmp_path / "runs"
    for number in range(3):
        write_student(root / f"s{number}" / "a", 1 + number)
    labels = {role: labels_of(role) for role in ("train", "test")}
    labels["test"] = labels["test"][:40]
    write_run(root / "t" / "a", "full", 0.1, labels=labels)
    write_run(root / "birds" / "a", "full", 0.1, classes=("crow", "owl"), data_name="birds")
    _, html, rows = make(root)
    assert rows["t/a"]["rank"] == ""
    assert "aren't those of the 3 other runs on data of this name" in rows["t/a"]["reason"]
    assert (rows["birds/a"]["rank"], rows["birds/a"]["data"]) == ("1", "birds")
    assert "Ranks are by data set" in html


def test_content_that_does_not_fit_its_hash_is_edited(tmp_path):
    root = tmp_path / "runs"
    for number, name in enumerate(("sound", "labels", "difficult", "file", "status")):
        path = write_student(root / name, 1 + number)
        with np.load(path / "scores_test.npz") as file:
            arrays = dict(file)
        of_test = {
            "ids": identity.text_sha256(arrays["ids"]),
            "labels": identity.array_sha256(arrays["labels"].astype(np.uint8)),
            "difficult": identity.array_sha256(arrays["difficult"].astype(np.uint8)),
        }
        if name in of_test:
            of_test[name] = "0" * 64
        made_of = identity.made_of({}, {"data": {"test": of_test}})
        (path / "made_of.json").write_text(json.dumps(made_of))
    edit_json(root / "file" / "results.json", files={"scores_test.npz": "0" * 64})
    edit_json(root / "status" / "results.json", status="running")
    _, _, rows = make(root)
    reasons = {name: row["reason"] for name, row in rows.items()}
    assert reasons == {
        "sound": "",
        "labels": "The labels of the scores on test aren't those that the run was begun with, by "
        "the sha256 in made_of.json.",
        "difficult": "The difficult flags of the scores on test aren't those that the run was "
        "begun with, by the sha256 in made_of.json.",
        "file": "scores_test.npz isn't the file whose sha256 is in results.json.",
        "status": "Its status is running, not finished.",
    }
    assert [row["rank"] for row in rows.values()] == ["1", "", "", "", ""]


def test_who_trained_on_test_has_no_rank(tmp_path):
    root = tmp_path / "runs"
    write_student(root / "fair", 2.0)
    data = {"train_split": "test", "val_split": "", "test_split": "test"}
    write_student(root / "unfair", 0.5, data=data)
    _, _, rows = make(root)
    assert [rows[name]["rank"] for name in ("fair", "unfair")] == ["1", ""]


def write_checkpoint(path, name):
    (path / "checkpoints" / "7").mkdir(parents=True)
    manifest = {"step": 7, "run": "", "files": {f"default/d/{name}": "0" * 64}}
    (path / "checkpoints" / "7" / "sha256.json").write_text(json.dumps(manifest))


def test_the_same_scores_are_a_copy_unless_times_and_checkpoints_are_its_own(tmp_path):
    root = tmp_path / "runs"
    first = write_student(root / "a", 2.0)
    for name in ("b", "c", "d", "e"):
        shutil.copytree(first, root / name)
        if name != "b":
            edit_json(root / name / "results.json", seconds={"train": ord(name)})
    for name, of_checkpoint in {"a": "x", "c": "y", "d": "x"}.items():
        write_checkpoint(root / name, of_checkpoint)
    edit_json(root / "e" / "config.json", batch_size=64)
    write_checkpoint(write_student(root / "f", 5.0), "x")
    _, html, rows = make(root)
    assert {name: row["rank"] for name, row in rows.items() if row["rank"]} == {"a": "1", "c": "1"}
    assert rows["c"]["same_scores_as"] == "a"
    assert "c with the scores of a, bit for bit" in section(html, "same")
    copied = "Its scores are those of a, bit for bit, and so are its times or checkpoints"
    assert rows["b"]["reason"].startswith(copied)
    assert rows["d"]["reason"].startswith(copied)
    assert "though its config or data are others" in rows["e"]["reason"]
    assert rows["f"]["reason"].startswith("Its checkpoints are those of a, file by file")


def test_a_forger_is_no_original(tmp_path):
    """Of two with the same scores the one whose files contradict one another loses its rank."""
    root = tmp_path / "runs"
    write_student(root / "honest", 2.0)
    shutil.copytree(root / "honest", root / "a_forger")
    state_map(root / "a_forger", 0.99)
    _, _, rows = make(root)
    assert [rows[name]["rank"] for name in ("honest", "a_forger")] == ["1", ""]
    assert "Its scores are those of honest" in rows["a_forger"]["reason"]


def test_no_run_makes_no_table(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    target = tmp_path / "class.html"
    assert command.main(["--class", str(tmp_path / "runs"), "-o", str(target)]) == 1
    assert not target.exists()
    assert "no finished run" in capsys.readouterr().err


def test_rows_need_a_class(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["runs", "--csv", "marks.csv"])
    assert stopped.value.code == 2
    assert "--csv writes the rows of a class: give --class" in capsys.readouterr().err


def test_names_start_where_the_directories_lie(tmp_path):
    paths = [tmp_path / "runs" / name for name in ("a/x", "b/x")]
    assert ranking.names_below(paths, [tmp_path / "runs"]) == ["a/x", "b/x"]
    assert ranking.names_below(paths, [tmp_path / "runs" / "a", tmp_path / "runs" / "b"]) == [
        "a/x",
        "b/x",
    ]
    assert ranking.names_below(paths[:1], paths[:1]) == ["x"]


def test_many_scores_have_no_interval_rather_than_hours(tmp_path, monkeypatch):
    root = tmp_path / "runs"
    write_student(root / "a", 2.0)
    write_student(root / "b", 3.0)
    monkeypatch.setattr(marks, "MAX_CELLS_OF_ALL", 60 * len(CLASSES))
    _, _, rows = make(root)
    assert rows["a"]["map_low"]
    assert (rows["b"]["map_low"], rows["b"]["rank"]) == ("", "2")
    assert float(rows["b"]["map"]) == pytest.approx(map_by_scikit_learn(root / "b"), abs=1e-6)


def test_language_has_a_word_for_every_status():
    for code in ("en", "fr"):
        for status in (*marks.OTHER_STATUSES.values(), "edited", "copy", "labels", "photos"):
            assert Language(code)(f"status_{status}")
