"""The probe's SVMs: beside scikit-learn's own cross-validation, and the low-shot draws."""

import json

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.svm import LinearSVC

from configs.linear_probe import VISSL_COSTS, get_config
from tests.tasks.test_probe import load_head, one_label_arrays, run, write
from vtl.data import deep_features
from vtl.errors import UserError
from vtl.probing import low_shot, svm
from vtl.probing.problem import Problem
from vtl.weights import formats, heads, metadata

COSTS = (0.1, 1.0, 10.0)
CLASSES = ("a", "b", "c", "d")


def arrays_of(seed=0, num_train=90, num_test=60, noise=1.0):
    """Four classes with difficult flags, the first with many positives and the last with two."""
    rng = np.random.default_rng(seed)
    direction, arrays = rng.normal(size=(12, 4)), {"classes": np.array(CLASSES)}
    for role, count in (("train", num_train), ("test", num_test)):
        features = np.abs(rng.normal(size=(count, 12)))
        logits = (features - 0.8) @ direction + noise * rng.normal(size=(count, 4))
        labels = (logits > [0, 1, 2, 1]).astype(np.float64)
        if role == "train":
            labels[np.flatnonzero(labels[:, 3])[2:], 3] = 0
        arrays |= {f"X_{role}": features, f"Y_{role}": labels, f"ids_{role}": np.arange(count)}
        arrays[f"difficult_{role}"] = (rng.random((count, 4)) < 0.1) & (labels == 0)
    return {name: x.astype(np.uint8) if x.dtype == bool else x for name, x in arrays.items()}


def normed(features):
    features = features.astype(np.float32).astype(np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def grid_search(features, is_positive):
    machine = LinearSVC(class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, random_state=0)
    search = GridSearchCV(machine, {"C": list(COSTS)}, scoring="average_precision", cv=3)
    return search.fit(features, np.where(is_positive, 1, -1))


def test_each_class_is_scikit_learns_grid_search(tmp_path, capsys):
    arrays = arrays_of()
    path = write(tmp_path / "f.npz", arrays)
    results = run(path, tmp_path / "run", "voc07_svm", svm_costs=COSTS)
    features, labels = normed(arrays["X_train"]), arrays["Y_train"]
    logits = np.load(tmp_path / "run" / "scores_test.npz")["logits"]
    chosen = results["svm"]["C"]
    for column, name in enumerate("abc"):
        search = grid_search(features, labels[:, column] == 1)
        assert chosen[name] == search.best_params_["C"]
        means = search.cv_results_["mean_test_score"]
        np.testing.assert_allclose(results["svm"]["ap_by_cost"][name], means, atol=1e-4)
        margins = search.decision_function(normed(arrays["X_test"]))
        np.testing.assert_allclose(logits[:, column], margins, atol=1e-3)
        kept = arrays["difficult_test"][:, column] == 0
        truth, ranked = arrays["Y_test"][kept, column], margins[kept]
        order = np.argsort(-ranked)
        hits = np.cumsum(truth[order])
        precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
        ap = np.sum(precision[truth[order] == 1]) / truth.sum()  # VISSL's, and voc2010
        assert results["ap"]["test"]["voc2010"][name] == pytest.approx(ap, abs=1e-6)
    # Two positives can't be in three folds: the C that is best for the others together.
    assert results["svm"]["too_few_to_choose"] == ["d"]
    means = np.mean([results["svm"]["ap_by_cost"][name] for name in "abc"], axis=0)
    assert chosen["d"] == COSTS[int(np.argmax(means))]
    out = capsys.readouterr().out
    assert "C by AP in 3 folds of train, of 0.1 to 10:" in out
    assert "lack positives or negatives: d" in out
    assert "The AP that VISSL's SVM benchmark states is voc2010." in out
    assert load_head(tmp_path / "run", CLASSES)["kernel"].shape == (12, 4)


def test_vissls_grid_is_tried_to_the_letter_and_an_end_is_said(tmp_path, capsys):
    path = write(tmp_path / "f.npz", arrays_of(num_train=40))
    assert svm.COSTS == VISSL_COSTS
    results = run(path, tmp_path / "run", "voc07_svm")
    assert results["svm"]["costs"] == list(VISSL_COSTS)
    capsys.readouterr()
    run(path, tmp_path / "narrow", "voc07_svm", svm_costs=(1e-6, 1e-5, 10.0))
    assert "is the largest tried, 10: others may be better" in capsys.readouterr().out


def test_vtls_grid_goes_on_beyond_its_ends(tmp_path):
    arrays = arrays_of(num_train=200, noise=3.0)
    for role in ("train", "test"):
        arrays[f"X_{role}"] = 300 * arrays[f"X_{role}"]
    path = write(tmp_path / "f.npz", arrays)
    results = run(path, tmp_path / "run", solver="svm")
    tried = results["svm"]["costs"]
    assert set(svm.COSTS) <= set(tried)
    np.testing.assert_allclose(tried[: len(tried) - 10][:2], [tried[1] / 10, tried[1]], rtol=1e-6)
    assert min(tried) < 0.01


def test_unknown_and_difficult_labels_are_left_out_class_by_class(tmp_path):
    arrays = arrays_of(num_train=120)
    arrays["difficult_train"][:10, 0] = 1
    arrays["Y_train"][:10, 0] = 0
    arrays["mask_train"] = np.ones((120, 4), np.uint8)
    arrays["mask_train"][50:60, 1] = 0
    arrays["Y_train"][50:60, 1] = 0
    changes = {"svm_costs": (1.0,), "difficult": "ignore"}
    path = write(tmp_path / "f.npz", arrays)
    run(path, tmp_path / "run", "voc07_svm", **changes)
    logits = np.load(tmp_path / "run" / "scores_test.npz")["logits"]
    for column in range(2):
        counts = (arrays["difficult_train"][:, column] == 0) & (
            arrays["mask_train"][:, column] == 1
        )
        machine = LinearSVC(C=1.0, class_weight={1: 2}, dual=True, max_iter=2000, random_state=0)
        machine.fit(normed(arrays["X_train"])[counts], arrays["Y_train"][counts, column])
        margins = machine.decision_function(normed(arrays["X_test"]))
        np.testing.assert_allclose(logits[:, column], margins, atol=1e-3)


def test_margins_are_calibrated_out_of_fold(tmp_path):
    path = write(tmp_path / "f.npz", arrays_of(num_train=200, num_test=400, noise=0.3))
    results = run(path, tmp_path / "run", "voc07_svm", svm_costs=(1.0,))
    assert results["decisions"]["chosen_on"] == "200 photos of train, out of fold"
    answers = results["answers"]["test"]
    assert answers["after_calibration"]["brier"] < answers["before_calibration"]["brier"]
    meta = metadata.read_head(formats.read(tmp_path / "run" / heads.FILE_NAME))
    assert meta.decisions.slopes[0] > 1  # margins are not as far from 0 as log-odds


def test_one_label_each_is_one_against_the_rest(tmp_path):
    arrays = one_label_arrays()
    path = write(tmp_path / "f.npz", arrays)
    results = run(path, tmp_path / "run", "voc07_svm", svm_costs=(1.0,))
    machine = LinearSVC(C=1.0, random_state=0)
    logits = np.load(tmp_path / "run" / "scores_test.npz")["logits"]
    margins = []
    for column in range(3):
        machine.set_params(class_weight={1: 2}).fit(
            normed(arrays["X_train"]), arrays["Y_train"][:, column]
        )
        margins.append(machine.decision_function(normed(arrays["X_test"])))
    right = np.argmax(margins, axis=0) == arrays["Y_test"].argmax(axis=1)
    assert results["one_label"]["test"]["accuracy"] == pytest.approx(right.mean())
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, rtol=1e-5)


def shots_problem(**changes):
    config = get_config("low_shot")
    config.update_from_flattened_dict({"low_shot": (1, 4), "seed": 3} | changes)
    return config


def problem_of(path, config):
    return Problem(deep_features.read(path), config, "sigmoid_bce")


def test_draws_are_vissls(tmp_path):
    """k positives, k negatives for each other class, each class and each k by itself."""
    path = write(tmp_path / "f.npz", arrays_of(num_train=200))
    problem = problem_of(path, shots_problem())
    for k in (1, 4):
        rows = low_shot.drawn(problem, k, seed=3)
        assert rows[3] is (None if k == 4 else rows[3])  # it has two positives
        for column in range(3):
            of_class = problem.train.labels[rows[column], column]
            assert of_class.tolist() == [1] * k + [0] * 3 * k
            assert len(set(rows[column])) == 4 * k
            assert problem.label_mask[rows[column], column].all()  # none is difficult
    again = low_shot.drawn(problem, 4, seed=3)
    for one, other in zip(rows, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert set(low_shot.drawn(problem, 1, seed=3)[0]) - set(rows[0])  # not nested
    other_seed = low_shot.drawn(problem, 4, seed=4)[0]
    assert set(other_seed) != set(rows[0])


def test_low_shot_is_measured_recorded_and_shown_again(tmp_path, capsys):
    arrays = arrays_of(num_train=60)
    path = write(tmp_path / "f.npz", arrays)
    changes = {"low_shot": (1, 4, 16), "low_shot_draws": 2, "svm_costs": (0.1, 10.0)}
    results = run(path, tmp_path / "run", "low_shot", **changes)
    found = results["low_shot"]
    assert found["seeds"] == [0, 1]
    assert found["protocol"] == "voc2010"
    assert found["negatives_for_each_positive"] == 3
    assert found["by_k"]["4"]["left_out"] == ["d"]
    assert found["by_k"]["4"]["classes"] == 3
    few = [name for name, of in zip(CLASSES, arrays["Y_train"].sum(axis=0), strict=True) if of < 16]
    assert set(few) <= set(found["by_k"]["16"]["left_out"])
    assert "a" in found["by_k"]["16"]["all_negatives"]
    assert found["by_k"]["16"]["chosen_on_train"] is None  # no negative is left to choose by
    assert found["by_k"]["16"]["chosen_on_test"]["cost"] in (0.1, 10.0)

    problem = problem_of(path, get_config("low_shot"))
    features = {"train": normed(arrays["X_train"]), "test": normed(arrays["X_test"])}
    maps = {}
    for cost in (0.1, 10.0):
        for seed in (0, 1):
            aps = []
            for column, rows in enumerate(low_shot.drawn(problem, 1, seed)):
                machine = LinearSVC(C=cost, class_weight={1: 2}, dual=True, random_state=0)
                machine.fit(features["train"][rows], arrays["Y_train"][rows, column])
                kept = arrays["difficult_test"][:, column] == 0
                margins = machine.decision_function(features["test"])[kept]
                truth = arrays["Y_test"][kept, column][np.argsort(-margins)]
                precision = np.cumsum(truth) / np.arange(1, len(truth) + 1)
                precision = np.maximum.accumulate(precision[::-1])[::-1]
                aps.append(np.sum(precision * truth) / truth.sum())
            maps[cost, seed] = np.mean(aps)
    of_k = found["by_k"]["1"]
    for name in ("chosen_on_train", "chosen_on_test"):
        cost = of_k[name]["cost"]
        expected = [maps[cost, 0], maps[cost, 1]]
        np.testing.assert_allclose(of_k[name]["map"], expected, atol=1e-3)
        assert of_k[name]["deviation"] == pytest.approx(np.std(expected), abs=1e-3)
    best = max((0.1, 10.0), key=lambda cost: maps[cost, 0] + maps[cost, 1])
    assert of_k["chosen_on_test"]["cost"] == best

    table = capsys.readouterr().out.split("low-shot:")[-1]
    assert "k=4: too few positives, left out: d" in table
    assert "fewer than 3 k negatives, all are taken" in table
    mean, deviation = (100 * of_k["chosen_on_train"][name] for name in ("mean", "deviation"))
    assert f"{mean:.1f} ({deviation:.1f})" in table
    assert f"{100 * results['map']['test']['voc2010']:.1f}" in table
    again = run(path, tmp_path / "run", "low_shot", **changes)  # it is finished
    assert again == results
    assert capsys.readouterr().out.split("low-shot:")[-1] == table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"svm_costs": (1.0,)}, r"(?s)svm_costs is for solver=svm.*solver=svm"),
        ({"low_shot": (1,), "solver": "lbfgs"}, "low_shot is for solver=svm, and .* lbfgs"),
        ({"svm_folds": 5}, "svm_folds is for solver=svm"),
        ({"solver": "svm", "loss": "focal"}, "(?s)squared hinge.*loss=focal"),
        ({"solver": "svm", "class_weights": "balanced"}, r"by svm_positive_weight \(2\)"),
        ({"solver": "svm", "low_shot": (1.5,)}, "whole numbers"),
        ({"solver": "svm", "low_shot": (80,)}, "no class has more than"),
        ({"solver": "svm", "svm_folds": 80}, "(?s)no C can be chosen.*svm_costs"),
    ],
)
def test_options_that_do_not_apply_are_refused(tmp_path, changes, message):
    path = write(tmp_path / "f.npz", arrays_of())
    with pytest.raises(UserError, match=message):
        run(path, tmp_path / "run", **changes)


def test_the_runs_of_before_are_finished_still(tmp_path, capsys):
    """Their configs lack what SVMs read."""
    path = write(tmp_path / "f.npz", arrays_of())
    run(path, tmp_path / "run", num_epochs=1.0)
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    knobs = [name for name in config if name.startswith(("svm_", "low_shot"))]
    assert len(knobs) == 5
    for name in knobs:
        del config[name]
    file.write_text(json.dumps(config))
    run(path, tmp_path / "run", num_epochs=1.0)
    assert "is finished" in capsys.readouterr().out
