"""The known optimum on planted scores, few positives, unknown labels, one label each."""

import numpy as np
import pytest
from scipy.special import expit

from vtl.decisions import answers, probabilities
from vtl.errors import UserError
from vtl.evaluation import calibration, thresholds
from vtl.evaluation.thresholds import Unseen


def planted(num_photos, slope=1.0, shift=-1.0, seed=0):
    """Logits [N, 1] with sigmoid(slope * x + shift) as the probability of the label."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, (num_photos, 1)).astype(np.float32)
    labels = (rng.random(x.shape) < expit(slope * x + shift)).astype(np.uint8)
    return Unseen(x, labels, np.ones_like(labels), "planted photos")


def decide(unseen, rule="f1", classes=("cat",), *, one_label_each=False):
    return thresholds.decide(unseen, classes, rule, one_label_each=one_label_each, seed=0)


def best_by_truth(slope, shift, value_of):
    """The p of the best cut of very many photos whose probabilities are known."""
    x = np.linspace(-9, 9, 20_001)[::-1]
    p, weight = expit(slope * x + shift), np.exp(-(x**2) / 8)
    hits, answered, total = np.cumsum(p * weight), np.cumsum(weight), np.sum(p * weight)
    return p[value_of(hits, answered, total).argmax()]


@pytest.mark.parametrize(("slope", "shift"), [(1.0, -1.0), (0.5, -2.0), (2.0, 0.0)])
def test_the_best_f1_is_found(slope, shift):
    expected = best_by_truth(slope, shift, lambda hits, n, total: 2 * hits / (n + total))
    decisions, record = decide(planted(20_000, slope, shift))
    assert decisions.thresholds[0] == pytest.approx(expected, abs=0.02)
    low, high = record["by_class"]["cat"]["interval"]
    assert low <= decisions.thresholds[0] <= high
    assert high - low < 0.06


def test_the_highest_recall_at_a_precision_is_found():
    expected = best_by_truth(1, -1, lambda hits, n, total: np.where(hits >= 0.8 * n, hits, 0))
    decisions, record = decide(planted(20_000), "precision:0.8")
    assert decisions.thresholds[0] == pytest.approx(expected, abs=0.03)
    unseen = planted(20_000, seed=1)
    p = probabilities(unseen.logits, decisions, one_label_each=False)
    given = answers(p, decisions, one_label_each=False)
    assert unseen.labels[given].mean() == pytest.approx(0.8, abs=0.02)
    assert record["rule"] == decisions.rule == "precision:0.8"


def test_classes_that_are_told_apart_are_cut_between():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(1.5, 3, 200), rng.uniform(-3, 0.5, 800)])[:, None]
    labels = (x > 1).astype(np.uint8)
    decisions, _ = decide(Unseen(x, labels, np.ones_like(labels), "w"))
    given = answers(
        probabilities(x, decisions, one_label_each=False), decisions, one_label_each=False
    )
    np.testing.assert_array_equal(given, labels == 1)


def test_a_threshold_lies_half_way_between_two_photos():
    x = np.array([[2.0], [1.0], [-1.0], [-2.0]] * 20, np.float32)
    labels = (x > 0).astype(np.uint8)
    decisions, _ = decide(Unseen(x, labels, np.ones_like(labels), "w"))
    p = probabilities(np.array([[1.0], [-1.0]]), decisions, one_label_each=False)
    assert decisions.thresholds[0] == pytest.approx(p.mean(), rel=1e-6)


def test_few_positives_are_called_a_guess_and_vary_much():
    many, few = decide(planted(2000))[1], decide(planted(25))[1]
    widths = [np.diff(record["by_class"]["cat"]["interval"])[0] for record in (many, few)]
    assert widths[1] > 2 * widths[0]
    assert many["by_class"]["cat"]["note"] == ""
    assert few["by_class"]["cat"]["positives"] < thresholds.FEW
    assert "guess" in few["by_class"]["cat"]["note"]


@pytest.mark.parametrize(("value", "note"), [(0, "no positive"), (1, "no negative")])
def test_without_both_kinds_it_is_a_half(value, note):
    unseen = planted(100)._replace(labels=np.full((100, 1), value, np.uint8))
    decisions, record = decide(unseen)
    assert decisions.thresholds == (0.5,)
    assert record["by_class"]["cat"]["note"] == note
    assert record["by_class"]["cat"]["interval"] is None


def test_a_precision_that_nothing_has_gives_no_answers():
    unseen = planted(300, slope=0.1, shift=-2.0)
    decisions, record = decide(unseen, "precision:0.95")
    p = probabilities(unseen.logits, decisions, one_label_each=False)
    assert not answers(p, decisions, one_label_each=False).any()
    assert "no threshold" in record["by_class"]["cat"]["note"]


def test_unknown_labels_do_not_count():
    unseen = planted(600)
    known = np.ones_like(unseen.labels)
    known[300:] = 0
    turned = np.where(known == 1, unseen.labels, 1 - unseen.labels)
    one = decide(unseen._replace(label_mask=known))
    other = decide(unseen._replace(label_mask=known, labels=turned))
    assert one == other
    assert one[1]["by_class"]["cat"]["positives"] == unseen.labels[:300].sum()


def one_label(num_photos=3000):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, (num_photos, 3))
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    labels = np.eye(3, dtype=np.uint8)[[rng.choice(3, p=row) for row in p]]
    return Unseen(x, labels, np.ones_like(labels), "w")


def test_resamples_without_a_known_label_have_no_threshold(recwarn):
    x = np.linspace(-2, 2, 100, dtype=np.float32)[:, None]
    labels, mask = (x > 0).astype(np.uint8), np.zeros(x.shape, np.uint8)
    mask[[30, 70]] = 1
    decisions, record = decide(Unseen(x, labels, mask, "two known photos"))
    p = probabilities(x[[30, 70]], decisions, one_label_each=False)
    low, high = record["by_class"]["cat"]["interval"]
    assert p.min() / 2 <= low <= high <= (1 + p.max()) / 2
    assert not recwarn.list


def test_of_one_label_each_f1_leaves_the_likeliest_class():
    decisions, _ = decide(one_label(), classes="abc", one_label_each=True)
    assert decisions.thresholds == (0, 0, 0)
    assert decisions.slopes[0] == pytest.approx(1, rel=0.05)
    assert len(set(decisions.slopes)) == 1


def test_of_one_label_each_a_precision_leaves_out_the_unsure():
    unseen = one_label()
    decisions, _ = decide(unseen, "precision:0.9", "abc", one_label_each=True)
    p = probabilities(unseen.logits, decisions, one_label_each=True)
    given = answers(p, decisions, one_label_each=True)
    assert given.sum(axis=1).max() == 1
    for column in range(3):
        answered = given[:, column]
        assert unseen.labels[answered, column].mean() == pytest.approx(0.9, abs=0.03)


def test_nothing_unseen_decides_nothing():
    assert decide(None) == (None, None)


@pytest.mark.parametrize(
    "rule", ["", "f2", "precision", "precision:0", "precision:1.1", "recall:1"]
)
def test_another_rule_is_refused(rule):
    with pytest.raises(UserError, match="precision:P"):
        thresholds.check_rule(rule)


def test_scores_that_are_none_decide_nothing(caplog):
    unseen = planted(50)
    unseen.logits[3] = np.nan
    assert decide(unseen) == (None, None)
    assert "planted photos are not finite" in caplog.text


def test_logits_of_thousands_have_an_interval_around_their_threshold():
    unseen = planted(300)
    decisions, record = decide(unseen._replace(logits=unseen.logits * 5000))
    low, high = record["by_class"]["cat"]["interval"]
    assert low <= decisions.thresholds[0] <= high


@pytest.mark.parametrize("rule", ["f1", "precision:0.6"])
def test_cuts_that_are_not_looked_at_change_nothing(rule, monkeypatch):
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 3)) < [0.02, 0.3, 0.9]).astype(np.uint8)
    logits = np.round(rng.normal(size=labels.shape) + 2 * labels - 1, 1).astype(np.float32)
    unseen = thresholds.Unseen(logits, labels, np.ones_like(labels), "drawn")
    found = []
    for first, growth in ((2, 2), (1024, 8)):
        monkeypatch.setattr(thresholds, "FIRST_PHOTOS", first)
        monkeypatch.setattr(thresholds, "GROWTH", growth)
        found.append(thresholds.decide(unseen, "abc", rule, one_label_each=False, seed=0))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("rule", "one_label_each"), [("f1", False), ("precision:0.6", False), ("precision:0.6", True)]
)
def test_intervals_equal_a_plain_bootstrap_of_every_cut(rule, one_label_each, monkeypatch):
    monkeypatch.setattr(thresholds, "NUM_RESAMPLES", 30)
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=np.uint8)[rng.integers(0, 3, 400)]
    logits = (np.round(rng.normal(size=labels.shape), 1) + labels).astype(np.float32)
    known = np.ones_like(labels)
    if not one_label_each:
        known[rng.random(labels.shape) < 0.2] = 0
    unseen = Unseen(logits, labels, known, "drawn")
    decisions, record = decide(unseen, rule, "abc", one_label_each=one_label_each)
    p = probabilities(logits, decisions, one_label_each=one_label_each)
    counts = next(thresholds.draw_resamples(400, 30, 0))
    fits = calibration.resampled(
        logits, labels, known, np.array(decisions.slopes), np.array(decisions.intercepts), counts
    )
    for c, name in enumerate("abc"):
        rows = np.flatnonzero(known[:, c])
        rows = rows[np.argsort(-p[rows, c], kind="stable")]
        may_answer = p[rows].argmax(axis=1) == c if one_label_each else np.full(len(rows), True)
        cuts = np.unique(p[rows[may_answer], c])[::-1]
        below = np.append(cuts[1:], 0)
        found = []
        for r in range(30):
            ours, weights = p[rows, c].astype(float), counts[rows, r].astype(float)
            if not one_label_each:
                ours = expit(logits[rows, c].astype(float) * fits[0][c, r] + fits[1][c, r])
            best, chosen = 0, (cuts[0] + 1) / 2
            for cut, lower in zip(cuts, below, strict=True):
                given = may_answer & (p[rows, c] >= cut)
                hits, answered = np.sum((ours * weights)[given]), weights[given].sum()
                value = hits if hits >= 0.6 * max(answered, 1) else 0
                if rule == "f1":
                    value = 2 * hits / (answered + np.sum(ours * weights))
                if value > best * (1 + 1e-12):
                    best, chosen = value, (cut + lower) / 2
            found.append(chosen)
        expected = np.percentile(found, [2.5, 97.5])
        np.testing.assert_allclose(record["by_class"][name]["interval"], expected, rtol=1e-6)
