import dataclasses
import errno
import json
import os
import re
import shutil
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve

from tests.report.synthetic import labels_of, noisy_scores, state_map, write_run, write_study
from vtl.report import __main__ as command
from vtl.report import answers, commands, compare, figures, page, photos, runs, search
from vtl.report.answers import all_answers
from vtl.report.canvas import strokes
from vtl.report.language import LANGUAGES, Language

SLOW_SIGMOID = {"sigmoid": [6.0, 6.2, 5.9, 6.1, 6.0], "relu": [2.0, 2.1, 1.9, 2.0, 2.0]}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """One run of each kind."""
    root = tmp_path_factory.mktemp("runs")
    write_study(root / "relu", {"perceptron": SLOW_SIGMOID})
    write_run(root / "probe", "probe", noise=4.0)
    write_run(root / "head", "head", noise=4.0)
    write_run(root / "finetune", "full", noise=1.0)
    write_run(root / "scratch", "scratch", noise=9.0)
    return root


@pytest.fixture
def drawn():
    """For tests of the figures, which take most of the time to draw."""


@pytest.fixture(autouse=True)
def undrawn(monkeypatch, request):
    """For all other tests."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", lambda _, file, **options: file.write("<svg></svg>"))


NAMES = ("relu", "probe", "head", "finetune", "scratch")


def make(root, names, *, lang="en", output="report.html"):
    """The exit status and the page of `python -m vtl.report`."""
    target = root / output
    given = [name if name.startswith("--") else str(root / name) for name in names]
    options = [*given, "-o", str(target), "--lang", lang]
    status = command.main(options)
    return status, target.read_text(encoding="utf-8") if target.exists() else ""


def prose(root, names, lang="en"):
    """The answers' sentences, without markup and with plain spaces."""
    all_runs, _ = runs.read_all([root / name for name in names])
    data_sets = compare.by_data_set(all_runs)
    styles = strokes(run.name for run in all_runs)
    found = all_answers(all_runs, data_sets[0] if data_sets else None, styles, Language(lang))
    text = "\n".join(f"{a.question}\n" + "\n".join(a.paragraphs) for a in found)
    return re.sub(r"<[^>]*>", "", text).replace("\N{NO-BREAK SPACE}", " ")


def test_every_section_is_there_and_nothing_is_fetched(given, drawn):
    status, html = make(given, NAMES)
    assert status == 0
    for section in ("summary", "curves", "classes", "photos", "questions", "trust"):
        assert f'<section id="{section}">' in html
    assert len(html.encode()) < 5e6
    addresses = re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^"\s)>]+)', html)
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))


def test_the_best_run_is_marked(given):
    _, html = make(given, NAMES)
    assert re.findall(r"<strong>(\w+)</strong> ★", html) == ["finetune"]
    stated = json.loads((given / "finetune" / "results.json").read_text())["map"]["test"]["lab"]
    assert f"mAP {100 * stated:.1f} [" in html


def test_the_regimes_are_told_apart(given):
    all_runs, _ = runs.read_all([given / name for name in NAMES[1:]])
    assert [run.regime for run in all_runs] == ["probe", "head", "full", "scratch"]


def test_the_answers_say_what_the_numbers_say(given):
    text = prose(given, NAMES)
    assert re.search(
        r"Perceptron, to .*97 %.*: ReLU took 2\.0 \[[^]]*\] epochs and sigmoid 6\.0", text
    )
    assert re.search(r"finetune is better than probe: \+\d", text)
    assert re.search(r"head and probe are tied: .*\+0\.0 .*\[\+0\.0, \+0\.0\]", text)
    assert re.search(r"Pretraining pays: finetune has \+\d.* scratch", text)
    assert "finetune has the highest mAP on test" in text


def test_swapped_scores_turn_the_prose(given, tmp_path):
    for name in ("probe", "finetune"):
        other = {"probe": "finetune", "finetune": "probe"}[name]
        shutil.copytree(given / name, tmp_path / name)
        for file in ("scores_test.npz", "scores_train.npz"):
            shutil.copy(given / other / file, tmp_path / name / file)
        results, swapped = (
            json.loads((given / of / "results.json").read_text()) for of in (name, other)
        )
        results |= {key: swapped[key] for key in ("map", "map_interval", "ap", "ap_interval")}
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    text = prose(tmp_path, ("probe", "finetune"))
    assert re.search(r"probe is better than finetune: \+\d", text)
    assert "probe has the highest mAP on test" in text
    assert "finetune is better" not in text


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"sigmoid": [2.0] * 5, "relu": [6.0] * 5}, "sigmoid took 2.0 [2.0, 2.0] epochs and ReLU"),
        (
            {"sigmoid": [2.0, 3.0, 4.0, 5.0, 6.0], "relu": [2.5, 3.5, 4.5, 5.5, 2.0]},
            "a tie",
        ),
        ({"sigmoid": [None] * 5, "relu": [None] * 5}, "neither sigmoid nor ReLU got there"),
        ({"sigmoid": [None] * 5, "relu": [2.0] * 5}, "more than 5.0 [at least 5.0] times as many"),
        ({"sigmoid": [6.0], "relu": [2.0]}, "a single run"),
    ],
)
def test_the_study_is_told_as_it_came_out(tmp_path, times, expected):
    write_study(tmp_path / "relu", {"perceptron": times})
    assert expected in prose(tmp_path, ("relu",))


@pytest.mark.parametrize(
    ("sigmoid", "relu", "is_told"),
    [(6.0, 2.0, True), (2.0, 6.0, False), (2.0, 2.0, False), (None, None, False)],
)
def test_the_reason_is_given_where_it_shows(tmp_path, sigmoid, relu, is_told):
    write_study(tmp_path / "relu", {"perceptron": {"sigmoid": [sigmoid] * 5, "relu": [relu] * 5}})
    text = prose(tmp_path, ("relu",))
    assert ("Why, in Perceptron" in text) == is_told
    assert ("these runs do not show it" in text) != is_told


def test_what_cannot_be_told_from_the_best_is_named_beside_it(given, tmp_path):
    for name in ("probe", "same"):
        shutil.copytree(given / "probe", tmp_path / name)
    _, html = make(tmp_path, ("probe", "same"))
    assert re.search("tied with same", re.sub(r"<[^>]*>", "", html))
    _, html = make(tmp_path, ("probe",))
    assert "On pets, probe has an mAP of" in re.sub(r"<[^>]*>", "", html)


def test_scores_that_are_no_probabilities_are_not_worked_out(given, tmp_path):
    labels = {role: labels_of(role) for role in ("train", "test")}
    logits = {role: 4 * noisy_scores(of, 1.0) - 2 for role, of in labels.items()}
    write_run(tmp_path / "run", "full", labels=labels, scores=logits)
    text = prose(tmp_path, ("run",))
    assert "The 4 terms are averaged" in text
    assert "terms sum to" not in text


def test_pretraining_that_does_not_pay(tmp_path):
    write_run(tmp_path / "finetune", "full", noise=9.0)
    write_run(tmp_path / "scratch", "scratch", noise=1.0)
    text = prose(tmp_path, ("finetune", "scratch"))
    assert re.search("Pretraining did not pay: finetune has \N{MINUS SIGN}[0-9].* scratch", text)


def test_binary_cross_entropy_is_that_of_the_photo(given):
    all_runs, _ = runs.read_all([given / "finetune"])
    styles = strokes(run.name for run in all_runs)
    answer = all_answers(all_runs, compare.by_data_set(all_runs)[0], styles, Language("en"))[2]
    terms = [row[3].value for row in answer.table.rows]
    labels = np.array([row[1].value for row in answer.table.rows])
    scores = np.array([row[2].value for row in answer.table.rows])
    np.testing.assert_allclose(terms, -np.log(np.where(labels == 1, scores, 1 - scores)), rtol=1e-6)
    assert f"terms sum to {sum(terms):.3f}" in answer.paragraphs[1]


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        ("relu", "vtl relu_study:digits"),
        ("probe", "vtl linear_probe"),
        (
            "head",
            "vtl finetune:head --workdir=runs/head --config.data.resize=squash"
            " --config.weights=tiny",
        ),
        ("finetune", "vtl finetune --workdir=runs/finetune --config.weights=tiny"),
    ],
)
def test_a_missing_run_is_named_by_its_command(given, left_out, expected):
    _, html = make(given, [name for name in NAMES if name != left_out])
    assert expected in html
    assert str(Language("en")("missing")) in html


def fields_of(words):
    return {field for _, field, _, _ in string.Formatter().parse(words)}


def test_french_has_its_own_numbers_and_the_same_keys(given, drawn):
    _, html = make(given, NAMES, lang="fr", output="rapport.html")
    assert '<html lang="fr">' in html
    assert re.search(r"mAP \d+,\d \[\d+,\d\s; \d+,\d\]", html)
    text = prose(given, NAMES, "fr")
    assert re.search(r"finetune est meilleure que probe : \+\d+,\d points", text)
    english, french = LANGUAGES["en"], LANGUAGES["fr"]
    assert english.keys() == french.keys()
    for key in english:
        assert fields_of(english[key]) == fields_of(french[key]), key


def test_runs_of_other_photos_or_classes_are_compared_apart(given, tmp_path, capsys):
    shutil.copytree(given / "probe", tmp_path / "probe")
    write_run(tmp_path / "birds", "full", classes=("crow", "owl"))
    status, html = make(tmp_path, ("probe", "birds"))
    assert status == 0
    assert re.search("birds: .*photos or classes.* probe", capsys.readouterr().err)
    assert "Answered from the runs on" in html
    assert "birds is better" not in re.sub(r"<[^>]*>", "", html)


def test_runs_on_photos_of_other_ids_are_compared_apart(given):
    all_runs, _ = runs.read_all([given / "probe", given / "head"])
    (data_set,) = compare.by_data_set(all_runs)
    assert data_set.runs == all_runs
    ids = all_runs[1].headline_scores.ids
    renamed = {
        "test": dataclasses.replace(all_runs[1].headline_scores, ids=tuple(f"{i}x" for i in ids))
    }
    all_runs[1] = dataclasses.replace(all_runs[1], scores=renamed)
    assert len(compare.by_data_set(all_runs)) == 2


def test_bad_directories_get_a_line_each_and_the_page_is_made(given, tmp_path, capsys):
    shutil.copytree(given / "probe", tmp_path / "probe")
    (tmp_path / "empty").mkdir()
    shutil.copytree(given / "finetune", tmp_path / "half")
    (tmp_path / "half" / "results.json").unlink()
    shutil.copytree(given / "finetune", tmp_path / "cut")
    cut = tmp_path / "cut" / "scores_test.npz"
    cut.write_bytes(cut.read_bytes()[:200])
    shutil.copytree(given / "finetune", tmp_path / "broken")
    (tmp_path / "broken" / "results.json").write_text("{")
    status, html = make(tmp_path, ("nowhere", "empty", "half", "cut", "broken", "probe"))
    assert status == 1
    lines = capsys.readouterr().err.splitlines()
    for line, words in zip(
        lines,
        ("nowhere: no such", "empty holds no run", "half is not finished", "cut", "broken"),
        strict=True,
    ):
        assert line.startswith("vtl: ")
        assert words in line
    assert "Left out:" in html
    assert "probe" in html


@pytest.mark.parametrize(
    ("file", "key", "value", "words"),
    [
        ("results.json", "loss", {"train": "0", "test": 0.1}, "'loss.train' is '0' and should"),
        ("results.json", "seconds", {"train": None}, "'seconds.train' is null and should"),
        ("results.json", "map", [1], "'map' is a list of 1 and should be an object"),
        ("results.json", "map", {"test": {"lab": float("nan")}}, "'map.test' lacks"),
        ("results.json", "map", {"../test": {}}, "'map' has ../test, which is no split"),
        ("results.json", "loss", {"train": 0.1, "test": float("nan")}, "'loss.test' is nan"),
        ("results.json", "classes", ["a", "b", "c", "d"], "'ap.train.lab' lacks, or has too many"),
        ("results.json", "classes", None, "'classes' is null"),
        ("results.json", "classes", ["\x1b[2J"] * 2, "'classes' names one twice"),
        ("results.json", "positives", {"train": None, "test": None}, "'positives.train' is null"),
        ("results.json", "devices", [3], r"'devices\[0\]' is 3 and should be text"),
        ("results.json", "weights", "mine", "'weights' is 'mine' and should be an object"),
        ("results.json", "seed", 1e400, "'seed' is inf and should be a whole number"),
        ("results.json", "task", ["x"], "is a run of task"),
        ("config.json", "optim", {}, "it lacks optim.rules"),
        ("config.json", "optim", {"rules": [["a"]]}, r"'optim.rules\[0\]' is a list of 1"),
        ("config.json", "data", 3, "'data' is 3 and should be an object"),
    ],
)
def test_what_other_hands_edited_is_left_out(given, tmp_path, capsys, file, key, value, words):
    shutil.copytree(given / "finetune", tmp_path / "run")
    shutil.copytree(given / "probe", tmp_path / "probe")
    path = tmp_path / "run" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    status, html = make(tmp_path, ("run", "probe"))
    assert status == 1
    assert html
    line = capsys.readouterr().err
    assert re.search(words, line), line
    assert line.count("\n") == 1
    assert line.strip().isprintable()


def test_a_curve_has_a_gap_where_a_value_is_null_and_lines_must_be_objects(given, tmp_path):
    shutil.copytree(given / "finetune", tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 21, "epoch": 2.1, "loss": null}\n')
    assert make(tmp_path, ("run",))[0] == 0
    path.write_text("3\n")
    assert make(tmp_path, ("run",))[0] == 1


def test_figures_are_of_some_classes_where_there_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "MAX_CLASSES", 2)
    write_run(tmp_path / "run", "probe")
    _, html = make(tmp_path, ("run",))
    assert html.count('aria-label="Precision and recall: ') == 2
    assert html.count("2 more classes are left out") == 3  # of all classes, one photo, one run


def test_names_that_look_like_formulae_are_only_names(tmp_path):
    write_run(tmp_path / "run", "full", classes=("US$ 5 \\frac{", "$\\badcmd$", "c", "d"))
    status, html = make(tmp_path, ("run",))
    assert (status, "$\\badcmd$" in html) == (0, True)


def test_precision_recall_keeps_its_shape_for_a_rare_class():
    rng = np.random.default_rng(0)
    labels = np.zeros(5000, int)
    labels[:100] = 1
    precision, recall, _ = precision_recall_curve(labels, labels + rng.normal(size=5000))
    rows = figures.evenly_spaced(recall, 60)
    assert len(rows) <= 120
    drawn = np.interp(recall[::-1], recall[rows][::-1], precision[rows][::-1])
    # Where recall falls there is a jump; between jumps the drawn line must be near.
    assert np.median(np.abs(drawn - precision[::-1])) < 0.01
    assert np.quantile(np.abs(drawn - precision[::-1]), 0.99) < 0.05


def test_no_run_at_all_writes_nothing(tmp_path, capsys):
    status, html = make(tmp_path, ("nowhere",))
    assert (status, html) == (1, "")
    assert "no finished run" in capsys.readouterr().err


def test_names_are_as_short_as_they_can_be(tmp_path):
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "b" / "probe"]
    assert runs._short_names(paths) == ["a/run", "b/run", "b/probe"]


def test_published_figures_stand_beside_voc2007_alone(tmp_path):
    labels = {"train": np.ones((5011, 1), int), "test": np.ones((4952, 1), int)}
    labels["test"][::2] = 0
    scores = {role: noisy_scores(of, 1.0) for role, of in labels.items()}
    same = {"classes": ("bird",), "labels": labels, "scores": scores}
    write_run(tmp_path / "voc", "probe", data_name="voc2007", **same)
    write_run(tmp_path / "other", "probe", data_name="mine", **same)
    write_run(tmp_path / "few", "probe", data_name="voc2007")
    all_runs, _ = runs.read_all([tmp_path / name for name in ("voc", "other", "few")])
    assert [bool(compare.DataSet([run]).published) for run in all_runs] == [True, False, False]


@pytest.mark.parametrize("number", [0, 1, 7, 40])
def test_the_best_are_the_first_of_a_stable_ranking(number):
    rng = np.random.default_rng(0)
    ranked_by, is_known = np.round(rng.normal(size=200), 1), rng.random(200) < 0.5
    ranked = np.argsort(-ranked_by, kind="stable")
    expected = ranked[is_known[ranked]][:number]
    np.testing.assert_array_equal(page._best(ranked_by, is_known, number), expected)


def test_confusions_count_the_best_scored_photos_without_the_class(tmp_path):
    labels = np.array([[1, 0], [0, 1], [0, 1], [1, 0]])
    scores = np.array([[0.9, 0.1], [0.8, 0.7], [0.1, 0.6], [0.2, 0.2]], np.float32)
    both = {role: labels for role in ("train", "test")}
    of = {role: scores for role in ("train", "test")}
    write_run(tmp_path / "run", "full", classes=("cat", "dog"), labels=both, scores=of)
    (run,), _ = runs.read_all([tmp_path / "run"])
    # Two photos have a cat; of the two best-scored the second has a dog. Both dogs are found.
    assert page.confusions(run) == [("cat", "dog", 1, 1.0)]


def test_text_from_files_can_not_break_the_page(tmp_path):
    write_run(tmp_path / "run", "full", data_name="<script>alert(1)</script>")
    _, html = make(tmp_path, ("run",))
    assert "<script>alert" not in html


def test_edited_results_win_nothing(tmp_path):
    for name, noise in (("better", 1.0), ("worse", 4.0)):
        write_run(tmp_path / name, "full", noise=noise)
    path = tmp_path / "worse" / "results.json"
    results = json.loads(path.read_text())
    results["map"]["test"]["lab"] = 0.999
    path.write_text(json.dumps(results))
    _, html = make(tmp_path, ("better", "worse"))
    assert re.findall(r"<strong>(\w+)</strong> ★", html) == ["better"]
    assert "99.9" in html  # in the table and in the warning


def test_a_rejected_run_is_in_no_sentence(tmp_path):
    """Of forged results, of a file that was replaced, of a run that was trained on test."""
    for name, noise in (
        ("forged", 4.0),
        ("replaced", 0.5),
        ("unfair", 0.5),
        ("a", 1.0),
        ("b", 2.0),
    ):
        data = {"train_split": "test" if name == "unfair" else "train", "test_split": "test"}
        results = {"files": {"scores_test.npz": "0" * 64}} if name == "replaced" else {}
        config = {"data": data}
        write_run(tmp_path / name, "full", noise, results=results, config=config)
    write_run(tmp_path / "scratch", "scratch", 9.0)
    state_map(tmp_path / "forged", 0.91)
    names = ("forged", "replaced", "unfair", "a", "b", "scratch")
    _, html = make(tmp_path, names)
    assert re.findall(r"<strong>(\w+)</strong> ★", html) == ["a"]
    assert re.findall(r"(\w+) ✗ not ranked", html) == ["forged", "replaced", "unfair"]
    (headline,) = re.findall(r'<p class="headline">(.*?)</p>', html)
    assert "<strong>a</strong> has the highest mAP" in headline
    text = prose(tmp_path, names)
    assert re.search(r"a is better than b: \+\d", text)
    for name in names[:3]:
        assert name not in headline
        assert not re.search(rf"\b{name}\b", text)


def test_where_all_are_rejected_none_is_the_best(tmp_path):
    for name in ("a", "b"):
        state_map(write_run(tmp_path / name, "full"), 0.91)
    _, html = make(tmp_path, ("a", "b"))
    assert "★" not in html
    assert "On pets no run has a rank" in html
    assert "the highest mAP" not in html


def test_thirty_runs_are_a_number_in_the_heading(tmp_path):
    names = [f"run_{number:02}" for number in range(9)]
    for name in names:
        write_run(tmp_path / name, "full", noise=2.0 + 0.001 * names.index(name))
    _, html = make(tmp_path, names)
    assert "<h1>Visual transfer learning: 9 runs</h1>" in html
    (headline,) = re.findall(r'<p class="headline">(.*?)</p>', html)
    assert len(re.findall(r"run_\d\d", headline)) == 6
    assert "and 3 more" in headline
    text = prose(tmp_path, names)
    assert len(re.findall("are tied", text)) == answers.MAX_COMPARED
    assert "2 more runs are in the table." in text


def test_the_answers_can_be_left_out(given):
    _, html = make(given, (*NAMES, "--no-answers"))
    assert 'id="questions"' not in html
    assert 'href="#questions"' not in html
    assert str(Language("en")("q_conclusion")) not in html
    assert "--no-answers" in html  # the command that makes the page
    assert 'id="trust"' in html


def test_a_directory_of_runs_stands_for_them(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / "runs" / name, "full")
    features = tmp_path / "runs" / "features"
    features.mkdir()
    (features / "config.json").write_text('{"task": "features"}')
    (tmp_path / "runs" / "notes").mkdir()
    below = [tmp_path / "runs" / name for name in ("a", "b")]
    assert search.runs_in(tmp_path / "runs").paths == below
    assert search.runs_in(below[0]).paths == below[:1]
    notes = tmp_path / "runs" / "notes"
    assert search.runs_in(notes).paths == [notes]
    assert make(tmp_path, ("runs",))[0] == 0


def test_a_directory_that_may_not_be_entered(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(Path, "exists", refuse)
    (path,) = search.runs_in(tmp_path).paths
    found, refused = runs.read_all([path])
    assert not found
    assert refused == [f"{tmp_path} can't be read: Permission denied"]


def test_as_a_command(given, tmp_path):
    target = tmp_path / "page.html"
    options = [str(given / "probe"), "-o", str(target)]
    done = subprocess.run(
        [sys.executable, "-m", "vtl.report", *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 run: ")
    assert target.exists()


def test_maps_are_called_what_they_are(tmp_path):
    """Exact under torchvision's head, approximate under another, which the page names."""
    special = {"depth": 50, "pooling": "average", "transform": "sqrt_l2", "regions": 3}
    write_run(tmp_path / "plain", "full", results={"network": {"depth": 50}})
    write_run(tmp_path / "special", "full", results={"network": special})
    plain, other = (make(tmp_path, [name])[1] for name in ("plain", "special"))
    assert "The maps are exact" in plain
    assert "The maps are approximate" in other
    assert "sqrt_l2" in other
    assert "sqrt_l2" not in plain


def test_a_mixture_with_the_start_is_named_with_its_share(tmp_path):
    write_run(tmp_path / "trained", "full", results={"chosen_mix": 1.0})
    write_run(tmp_path / "mixed", "full", results={"chosen_mix": 0.25})
    trained, mixed = (make(tmp_path, [name])[1] for name in ("trained", "mixed"))
    assert re.search(r"trained weights, mixed with.*?\b25\.0\b", mixed, re.DOTALL)
    assert "trained weights, mixed with" not in trained


def test_commands_for_own_photos_name_them_as_the_runs_do(tmp_path):
    data = {"root": "my photos", "labels": "l.csv", "flags": "voc", "separator": ""}
    data |= {"name": "voc2007", "split_fractions": [0.8, 0.0, 0.2]}
    path = write_run(tmp_path / "run", "full", data_name="my photos", config={"data": data})
    (data_set,) = compare.by_data_set(runs.read_all([path])[0])
    features, probe = commands.to_make("probe", data_set)
    assert "--config.data.root='my photos' --config.data.labels=l.csv" in features
    assert "--config.data.flags=voc --config.data.split_fractions='(0.8, 0.0, 0.2)'" in features
    assert "--config.features='runs/features/DF_ResNet50_my photos.npz'" in probe
    assert "data.name" not in features
    path = write_run(tmp_path / "other", "full", data_name="pets")
    (data_set,) = compare.by_data_set(runs.read_all([path])[0])
    features, probe = commands.to_make("probe", data_set)
    assert "--config.data.name=pets" in features
    assert "DF_ResNet50_PETS.npz" in probe


def test_a_label_that_nobody_knows_is_not_shown_as_a_no(tmp_path):
    run = write_run(tmp_path / "run", "full")
    with np.load(run / "gallery_test.npz") as file:
        arrays = dict(file)
    before = photos.by_class(runs.read(run, "run"), Language("en"))[0]
    assert not any("not known" in str(of) for of in before)
    label_mask = np.ones_like(arrays["labels"])
    label_mask[:, 1] = 0
    np.savez(run / "gallery_test.npz", **arrays, label_mask=label_mask)
    shown = photos.by_class(runs.read(run, "run"), Language("en"))[0]
    pictures = [p for of in shown for pictures in of.kinds.values() for p in pictures]
    name = str(arrays["classes"][1])
    assert pictures
    for picture in pictures:
        assert picture.labels[-1] == f"{name} (not known)"
        assert name not in picture.labels


def test_labels_that_changed_between_runs_are_counted(tmp_path, capsys):
    first = write_run(tmp_path / "first", "probe")
    with np.load(first / "scores_test.npz") as scores:
        labels = {"test": scores["labels"].copy()}
    labels["test"][3] = 1 - labels["test"][3]
    labels["test"][5, 0] = 1 - labels["test"][5, 0]
    second = write_run(tmp_path / "second", "probe", labels=labels)
    command.main([str(first), str(second), "-o", str(tmp_path / "page.html")])
    num_classes = labels["test"].shape[1]
    assert f"{num_classes + 1} labels of 2 photos differ" in capsys.readouterr().err
