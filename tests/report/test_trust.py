import json

import numpy as np
import pytest

from tests.report.synthetic import CLASSES, labels_of, noisy_scores, write_run, write_study
from vtl.report import compare, runs, trust
from vtl.report.language import LANGUAGES, Language


def warnings_of(path):
    (run,), refused = runs.read_all([path])
    assert not refused
    return as_written(trust.of_run(run))


def as_written(findings):
    """Findings as {key: values}, after writing each in every language."""
    for finding in findings:
        for code in LANGUAGES:
            assert "{" not in Language(code)(finding.key, **finding.values)
    return {finding.key: finding.values for finding in findings}


def change_scores(path, role, **changes):
    file = path / f"scores_{role}.npz"
    with np.load(file) as before:
        arrays = dict(before)
    np.savez(file, **(arrays | {key: change(arrays[key]) for key, change in changes.items()}))


def change_results(path, **changes):
    file = path / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def sound(tmp_path):
    return write_run(tmp_path / "run", "full", noise=2.0)


def test_a_sound_run_raises_none(sound):
    assert warnings_of(sound) == {}


def test_constant_scores(tmp_path):
    labels = {role: labels_of(role) for role in ("train", "test")}
    scores = {role: np.full(of.shape, 0.3, np.float32) for role, of in labels.items()}
    path = write_run(tmp_path / "all", "full", labels=labels, scores=scores)
    assert warnings_of(path)["warn_all_constant"] == {"role": "test"}
    scores["test"] = noisy_scores(labels["test"], 1.0)
    scores["test"][:, 2] = 0.5
    path = write_run(tmp_path / "one", "full", labels=labels, scores=scores)
    assert warnings_of(path)["warn_constant"] == {"role": "test", "classes": CLASSES[2]}


def test_test_above_train_by_more_than_its_interval(tmp_path):
    labels = {role: labels_of(role) for role in ("train", "test")}
    noises = {"train": 8.0, "test": 0.5}
    scores = {role: noisy_scores(of, noises[role]) for role, of in labels.items()}
    path = write_run(tmp_path / "run", "full", labels=labels, scores=scores)
    assert warnings_of(path)["warn_above_train"]["low"] > 0.9


def test_rows_that_do_not_match_the_ids(sound):
    change_scores(sound, "test", ids=lambda ids: ids[::-1])
    assert warnings_of(sound) == {"warn_other_ids": {"role": "test"}}
    change_scores(sound, "test", ids=lambda ids: np.repeat(ids[:1], len(ids)))
    assert "warn_repeated_ids" in warnings_of(sound)


def test_photos_that_are_in_train_too(sound):
    with np.load(sound / "scores_train.npz") as train:
        train_ids = train["ids"][:3]
    change_scores(sound, "test", ids=lambda ids: np.concatenate([train_ids, ids[3:]]))
    assert warnings_of(sound)["warn_overlap"]["count"] == 3


def test_a_map_that_the_scores_do_not_give(sound):
    change_scores(sound, "test", scores=lambda scores: scores[::-1])
    stated = json.loads((sound / "results.json").read_text())["map"]["test"]["lab"]
    warning = warnings_of(sound)["warn_other_map"]
    assert warning["stated"] == stated
    assert warning["computed"] < stated


def test_scores_that_are_no_probabilities(sound):
    change_scores(sound, "test", scores=lambda scores: 10 * scores)
    assert warnings_of(sound)["warn_no_probabilities"]["role"] == "test"


def saturate(scores):
    """Scores of which the upper half is exactly 1."""
    return np.where(scores > np.median(scores, axis=0), 1, scores).astype(np.float32)


def test_ties_of_saturated_scores_are_counted(tmp_path):
    labels = {role: labels_of(role) for role in ("train", "test")}
    scores = {role: noisy_scores(of, 3.0) for role, of in labels.items()}
    scores["test"] = saturate(scores["test"])
    path = write_run(tmp_path / "run", "full", labels=labels, scores=scores)
    ties = warnings_of(path)["warn_ties"]
    assert (ties["role"], ties["count"], ties["images"], ties["classes"]) == ("test", 30, 60, 4)


def test_logits_rank_where_scores_tie(sound):
    def add_logits(path, logits):
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **arrays, logits=logits.astype(np.float32))

    scores = np.load(sound / "scores_test.npz")["scores"].astype(np.float64)
    logits = np.log(scores / (1 - scores))
    add_logits(sound / "scores_test.npz", logits)
    assert warnings_of(sound) == {}
    (run,), _ = runs.read_all([sound])
    np.testing.assert_array_equal(run.headline_scores.ranked_by, logits.astype(np.float32))
    change_scores(sound, "test", logits=np.negative)
    assert set(warnings_of(sound)) == {"warn_other_map", "warn_other_logits"}


@pytest.mark.parametrize(
    ("ranked_by", "labels", "expected"),
    [
        ([1, 2, 3, 4], [0, 1, 0, 1], 0),
        ([1, 1, 1, 4], [0, 1, 0, 1], 3),
        ([1, 1, 4, 4], [0, 0, 1, 1], 0),
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0], 4),
    ],
)
def test_only_ties_that_can_change_the_ap_count(ranked_by, labels, expected):
    assert trust.num_tied(np.array(ranked_by), np.array(labels) == 1) == expected


def test_a_class_without_positives(tmp_path):
    labels = {role: labels_of(role) for role in ("train", "test")}
    labels["test"][:, 1] = 0
    path = write_run(tmp_path / "run", "full", labels=labels)
    assert warnings_of(path)["warn_without_positives"] == {"role": "test", "classes": "cat"}


def test_a_protocol_that_does_not_fit(sound, tmp_path):
    for name, expected in {
        "voc2012": {"warn_none_difficult": {"role": "test"}},
        "birds": {},
    }.items():
        path = write_run(tmp_path / name, "full", data_name=name)
        change_scores(path, "test", difficult=np.zeros_like)
        found = warnings_of(path)
        # The flags count in this protocol.
        assert found.pop("warn_other_map")["protocol"] == "voc2007"
        assert found == expected
    path = write_run(tmp_path / "few", "full", data_name="voc2007")
    assert warnings_of(path)["warn_not_voc2007"] == {"train": 40, "test": 60}
    change_results(
        sound, not_computable={"train": {}, "test": {"voc2007": "there are no difficult flags"}}
    )
    assert warnings_of(sound)["warn_not_computable"]["protocol"] == "voc2007"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"resumed_from": 120}, "warn_resumed"),
        ({"status": "stopped"}, "warn_unfinished"),
        ({"commit": None}, "warn_no_commit"),
        ({"commit": "0123456789-dirty"}, "warn_dirty"),
    ],
)
def test_how_it_was_made(sound, changes, key):
    change_results(sound, **changes)
    assert list(warnings_of(sound)) == [key]


def test_selection_on_test(tmp_path):
    data = {"train_split": "train", "val_split": "test", "test_split": "test"}
    path = write_run(tmp_path / "run", "full", config={"data": data})
    assert warnings_of(path) == {"warn_selected_on_test": {"split": "test"}}


def test_a_probe_is_selected_on_test_by_its_own_splits(tmp_path):
    splits = {"train_split": "test", "test_split": "test"}
    path = write_run(tmp_path / "run", "probe", config=splits)
    assert warnings_of(path)["warn_selected_on_test"] == {"split": "test"}


def test_without_a_test_split_the_map_is_of_what_was_trained_on(tmp_path):
    labels = {"train": labels_of("train")}
    for name in ("run", "other"):
        write_run(tmp_path / name, "probe", labels=labels)
    assert "warn_only_train" in warnings_of(tmp_path / "run")
    both, _ = runs.read_all([tmp_path / "run", tmp_path / "other"])
    (data_set,) = compare.by_data_set(both)
    assert "warn_best_on_test" not in as_written(trust.of_comparison(data_set))


def test_runs_that_are_hard_to_compare(sound, tmp_path):
    weights = {"name": "other", "sha256": "cd" * 32, "preprocessing": {}}
    write_run(tmp_path / "other", "probe", results={"weights": weights})
    both, _ = runs.read_all([sound, tmp_path / "other"])
    (data_set,) = compare.by_data_set(both)
    assert list(as_written(trust.of_comparison(data_set))) == [
        "warn_best_on_test",
        "warn_different_weights",
    ]


def test_warnings_of_the_study(tmp_path):
    path = write_study(tmp_path / "relu", {"perceptron": {"sigmoid": [3.0], "relu": [2.0]}})
    results = json.loads((path / "results.json").read_text())
    activations = results["networks"]["perceptron"]["activations"]
    activations["sigmoid"]["at_the_grids_edge"] = True
    activations["relu"] = {"status": "diverged"}
    change_results(path, networks=results["networks"])
    assert list(warnings_of(path)) == ["warn_grids_edge", "warn_diverged"]


def test_ties_are_counted_as_by_every_group_of_equal_scores():
    rng = np.random.default_rng(0)
    ranked_by, labels = np.round(rng.normal(size=2000), 2), rng.random(2000) < 0.05
    groups = [labels[ranked_by == value] for value in np.unique(ranked_by)]
    expected = sum(len(of) for of in groups if of.any() and not of.all())
    assert trust.num_tied(ranked_by, labels) == expected > 0
