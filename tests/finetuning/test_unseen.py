"""Which photos' scores thresholds are chosen on, case by case."""

from types import SimpleNamespace

import numpy as np
import pytest

from vtl.data.split import Split, ids_sha256
from vtl.finetuning import trial, unseen

CLASSES = ("cat", "dog")
TRAIN, OUTSIDE = 40, np.arange(30, 40)
OUT_OF_FOLD, HELD_OUT, VAL = 1.0, 2.0, 3.0
"""What the scores of each kind are about, so that a test sees which were taken."""


def split(name, count, groups=()):
    rng = np.random.default_rng(0)
    ids = tuple(f"{name}{number}" for number in range(count))
    labels = rng.integers(0, 2, (count, 2)).astype(np.uint8)
    known = np.ones_like(labels)
    none = np.zeros_like(labels)
    return Split(name, ids, ids, labels, known, none, CLASSES, ids_sha256(ids), groups)


def scores(value, count):
    return value + np.random.default_rng(1).normal(0, 0.01, (count, 2)).astype(np.float32)


def decide(
    monkeypatch,
    *,
    head="probe",
    given=None,
    val=False,
    tried=True,
    start=False,
    alike=False,
    groups=(),
):
    """What was chosen on, and the mean of its scores; None if there were none."""
    taken = {}

    def out_of_fold(training_set, groups):
        taken["groups"] = groups
        return scores(OUT_OF_FOLD, TRAIN)

    def decided(found, *arguments, **options):
        taken["found"] = found
        return None, None

    monkeypatch.setattr(unseen.thresholds, "decide", decided)
    monkeypatch.setattr(trial, "logits", lambda *arguments: scores(HELD_OUT, len(OUTSIDE)))
    splits = {"train": split("train", TRAIN, groups)} | ({"val": split("val", 20)} if val else {})
    images = np.random.default_rng(2).integers(0, 256, (TRAIN, 32, 32, 3), dtype=np.uint8)
    if alike:
        images[:] = images[0]
    job = SimpleNamespace(
        given_head=given,
        config=SimpleNamespace(head=head, thresholds="f1", seed=0),
        objective=SimpleNamespace(has_one_label_each=False),
        out_of_fold=out_of_fold,
    )
    parts = trial.Parts(np.arange(30), OUTSIDE, None) if tried else None
    unseen.decide(
        job,
        splits,
        {"val": scores(VAL, 20)},
        SimpleNamespace(images=images),
        parts,
        {"best_step": 0 if start else 5} if tried else None,
        is_start=start,
        workdir=None,
    )
    if "groups" in taken:
        expected = np.unique(groups, return_inverse=True)[1] if groups else np.arange(TRAIN)
        np.testing.assert_array_equal(taken["groups"], expected)
    found = taken["found"]
    return None if found is None else (found.in_words, round(float(found.logits.mean())))


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("head", ["probe", "random"])
def test_a_val_split_comes_first(monkeypatch, head, start):
    found = decide(monkeypatch, val=True, head=head, start=start)
    assert found == ("20 photos of val", VAL)


def test_a_start_that_was_kept_is_asked_out_of_fold(monkeypatch):
    expected = (f"{TRAIN} photos of train, out of fold", OUT_OF_FOLD)
    assert decide(monkeypatch, start=True) == expected
    assert decide(monkeypatch, start=True, tried=False) == expected


def test_what_was_trained_is_asked_about_what_was_held_out(monkeypatch):
    expected = (f"{len(OUTSIDE)} photos held out of train", HELD_OUT)
    assert decide(monkeypatch) == expected
    assert decide(monkeypatch, head="random") == expected


def test_photos_that_are_all_alike_have_no_folds(monkeypatch):
    assert decide(monkeypatch, start=True, alike=True) == (
        f"{len(OUTSIDE)} photos held out of train",
        HELD_OUT,
    )
    assert decide(monkeypatch, start=True, alike=True, tried=False) is None


def test_a_group_of_the_table_is_in_one_fold(monkeypatch):
    groups = tuple(f"{row // 2:02}" for row in range(TRAIN))
    words, _ = decide(monkeypatch, start=True, groups=groups)
    assert words == f"{TRAIN} photos of train, out of fold"
    few = tuple("ab"[row % 2] for row in range(TRAIN))
    assert decide(monkeypatch, start=True, tried=False, groups=few) is None


def test_without_a_trial_the_start_answers_for_what_came_of_it(monkeypatch):
    words, value = decide(monkeypatch, tried=False)
    assert words.endswith("out of fold, by the head that training started from")
    assert value == OUT_OF_FOLD


def test_without_a_fitted_head_or_a_trial_there_are_none(monkeypatch):
    assert decide(monkeypatch, tried=False, head="random") is None
    assert decide(monkeypatch, tried=False, given="a head") is None
