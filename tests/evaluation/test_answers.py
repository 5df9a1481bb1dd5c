"""Precision, recall and F1 of answers, against scikit-learn; and the table of wrong ones."""

import csv
import io
import json

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from vtl.evaluation import answers

CLASSES = ("cat", "dog", "emu", "fox")


def drawn(num_photos=200):
    rng = np.random.default_rng(0)
    labels = (rng.random((num_photos, 4)) < [0.5, 0.2, 0.1, 0.3]).astype(np.uint8)
    given = np.where(rng.random(labels.shape) < 0.8, labels, 1 - labels) == 1
    given[:, 3] = False  # fox is never answered
    return given, labels


def evaluate(given, labels, **options):
    mask = options.pop("label_mask", np.ones_like(labels))
    return answers.evaluate(given, labels, mask, CLASSES, num_resamples=200, **options)


def test_all_are_scikit_learns():
    given, labels = drawn()
    found = evaluate(given, labels)
    json.dumps(found, allow_nan=False)
    by_class = precision_recall_fscore_support(labels, given, zero_division=0)
    for place, quantity in enumerate(answers.QUANTITIES):
        for column, name in enumerate(CLASSES):
            value = found["by_class"][name][quantity]["value"]
            if (name, quantity) == ("fox", "precision"):
                assert value is None
            else:
                assert value == pytest.approx(by_class[place][column])
        for mean in ("macro", "micro"):
            expected = precision_recall_fscore_support(labels, given, average=mean, zero_division=0)
            assert found[mean][quantity]["value"] == pytest.approx(expected[place])


def test_intervals_hold_their_values():
    found = evaluate(*drawn())
    for entry in (*found["by_class"].values(), found["macro"], found["micro"]):
        for estimate in entry.values():
            if estimate["value"] is not None:
                low, high = estimate["interval"]
                assert low <= estimate["value"] <= high
                assert estimate["value"] in (0.0, 1.0) or low < high


def test_a_class_without_a_positive_is_left_out_of_the_mean():
    given, labels = drawn()
    labels[:, 2] = 0
    found = evaluate(given, labels)
    assert found["by_class"]["emu"]["f1"]["value"] is None
    kept = [0, 1, 3]
    expected = precision_recall_fscore_support(
        labels[:, kept], given[:, kept], average="macro", zero_division=0
    )
    assert found["macro"]["f1"]["value"] == pytest.approx(expected[2])


def test_unknown_labels_do_not_count():
    given, labels = drawn()
    mask = np.ones_like(labels)
    mask[::3] = 0
    one = evaluate(given, labels, label_mask=mask)
    assert one == evaluate(given, np.where(mask == 1, labels, 1 - labels), label_mask=mask)
    assert one != evaluate(given, labels)


def test_the_gain_over_other_answers_is_paired():
    given, labels = drawn()
    gain = evaluate(given, labels, baseline=given)["macro_f1_gain"]
    assert gain == {"value": 0.0, "interval": [0.0, 0.0]}
    better = evaluate(labels == 1, labels, baseline=given)["macro_f1_gain"]
    assert better["value"] == pytest.approx(1 - evaluate(given, labels)["macro"]["f1"]["value"])
    assert better["interval"][0] > 0


def test_wrong_answers_come_by_class_the_surest_first():
    p = np.array([[0.9, 0.1], [0.6, 0.8], [0.2, 0.3], [0.4, 0.9]], np.float32)
    labels = np.array([[0, 0], [0, 1], [1, 0], [1, 0]], np.uint8)
    mask = np.ones_like(labels)
    mask[3, 1] = 0  # not known, so not wrong
    given = p >= 0.5
    ids = ("a,b.jpg", "b.jpg", 'c"\n.jpg', "d.jpg")
    text = answers.errors_csv(ids, ("cat", "dog"), p, (0.5, 0.5), given, labels, mask)
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == list(answers.ERROR_COLUMNS)
    assert rows[1:] == [
        ["a,b.jpg", "cat", "false alarm", "0.9000", "0.5000"],
        ['c"\n.jpg', "cat", "missed", "0.2000", "0.5000"],
        ["b.jpg", "cat", "false alarm", "0.6000", "0.5000"],
        ["d.jpg", "cat", "missed", "0.4000", "0.5000"],
    ]


def test_a_spreadsheet_computes_no_cell():
    given, labels = np.array([[True]]), np.array([[0]], np.uint8)
    text = answers.errors_csv(
        ("=1+1.jpg",), ("-x",), np.array([[0.9]]), (0.5,), given, labels, np.ones_like(labels)
    )
    assert text.splitlines()[1] == "'=1+1.jpg,'-x,false alarm,0.9000,0.5000"


def results(**changes):
    given, labels = drawn()
    found = evaluate(given, labels) | {"before_calibration": {"brier": 0.1, "reliability": 0.01}}
    return {"answers": {"test": found | changes}}


def test_without_thresholds_one_label_each_is_the_likeliest_class():
    lines = list(answers.format_lines(results() | {"one_label": {}}, "test", CLASSES))
    assert "the likeliest class" in lines[0]
    assert "0.5" not in lines[0]
    assert lines[2].split()[:2] == ["cat", "0.000"]
    lines = list(answers.format_lines(results(), "test", CLASSES))
    assert "thresholds 0.5" in lines[0]
    assert lines[2].split()[:2] == ["cat", "0.500"]


def test_answers_that_were_chosen_on_the_same_photos_say_so():
    lines = list(answers.format_lines(results(is_unseen=False), "test", CLASSES))
    assert "expect worse elsewhere" in lines[-1]


def test_results_that_lack_a_class_are_shown_without_it():
    found = results()
    del found["answers"]["test"]["by_class"]["dog"]
    shown = "\n".join(answers.format_lines(found, "test", CLASSES))
    assert "dog" not in shown
    assert "emu" in shown
