import json
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from vtl.errors import UserError
from vtl.evaluation import metrics, resampling

CLASSES = ("cat", "dog", "boat")


def devkit_ap(scores, labels, difficult, year):
    """VOCevalcls.m and VOCap.m, line by line, with MATLAB's max that passes over NaN."""
    gt = [1 if y else 0 if d else -1 for y, d in zip(labels, difficult, strict=True)]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    recall, precision = [], []
    tp = fp = 0
    for i in order:
        tp += gt[i] > 0
        fp += gt[i] < 0
        recall.append(tp / gt.count(1))
        precision.append(tp / (tp + fp) if tp + fp else -math.inf)
    if year == 2007:
        ap = 0.0
        for i in range(11):
            reached = [p for r, p in zip(recall, precision, strict=True) if r >= i * 0.1]
            ap += max(reached, default=0.0) / 11
        return ap
    mrec, mpre = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return sum((mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)))


def reference_ap(scores, labels, difficult, protocol):
    if protocol == "lab":
        return average_precision_score(labels, scores)
    return devkit_ap(scores, labels, difficult, int(protocol.removeprefix("voc")))


def random_problem(seed, num_images, num_classes=3):
    """Scores with many ties that know something about the labels; some difficult images."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((num_images, num_classes)) < 0.3).astype(int)
    difficult = ((rng.random(labels.shape) < 0.2) & (labels == 0)).astype(int)
    scores = np.round(np.clip(0.3 * labels + 0.7 * rng.random(labels.shape), 0, 1), 1)
    return scores, labels, difficult


def evaluate(scores, labels, difficult, **kwargs):
    return metrics.evaluate_scores(scores, labels, difficult, CLASSES, **kwargs)


@pytest.mark.parametrize(
    ("scores", "labels", "difficult", "lab", "voc2007", "voc2010"),
    [
        pytest.param([4, 3, 2, 1], [1, 0, 1, 0], [0] * 4, 5 / 6, 28 / 33, 5 / 6, id="plain"),
        pytest.param([3, 2, 1], [0, 1, 1], [0] * 3, 7 / 12, 2 / 3, 2 / 3, id="interpolated"),
        pytest.param([5, 5], [1, 0], [0, 0], 1 / 2, 1, 1, id="tie, positive first in the file"),
        pytest.param([5, 5], [0, 1], [0, 0], 1 / 2, 1 / 2, 1 / 2, id="tie, positive second"),
        pytest.param([1, 4, 2, 3], [0, 0, 1, 0], [0] * 4, 1 / 3, 1 / 3, 1 / 3, id="one positive"),
        pytest.param([1, 3, 2], [1, 1, 1], [0] * 3, 1, 1, 1, id="all positive"),
        pytest.param([1, 3, 2], [0, 0, 0], [0] * 3, None, None, None, id="no positive"),
        pytest.param([3, 2, 1], [0, 1, 0], [1, 0, 0], 1 / 2, 1, 1, id="difficult at the top"),
        pytest.param([3, 2, 1], [0, 1, 0], [0, 1, 0], 1 / 2, 1 / 2, 1 / 2, id="difficult positive"),
        pytest.param([2, 1], [0, 0], [1, 1], None, None, None, id="difficult only"),
    ],
)
def test_values_worked_out_by_hand(scores, labels, difficult, lab, voc2007, voc2010):
    for protocol, expected in (("lab", lab), ("voc2007", voc2007), ("voc2010", voc2010)):
        ap = metrics.average_precision(
            np.array(scores), np.array(labels), np.array(difficult), protocol
        )
        assert ap == (None if expected is None else pytest.approx(expected, abs=1e-12)), protocol


@pytest.mark.parametrize(("hits", "thresholds_reached"), [(2, 3), (3, 3), (5, 6), (6, 6), (7, 7)])
def test_recall_of_3_6_or_7_tenths_misses_its_threshold(hits, thresholds_reached):
    labels = np.array([1] * hits + [0] + [1] * (10 - hits))
    ap = metrics.average_precision(-np.arange(11), labels, np.zeros(11), "voc2007")
    # Those reached before the one false alarm have precision 1, the others 10/11.
    expected = (thresholds_reached + (11 - thresholds_reached) * 10 / 11) / 11
    assert ap == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("protocol", metrics.PROTOCOLS)
@pytest.mark.parametrize("num_images", [10, 40, 200])
def test_agrees_with_the_owner_of_the_protocol(protocol, num_images):
    compared = 0
    for seed in range(20):
        for column in zip(*(x.T for x in random_problem(seed, num_images)), strict=True):
            if not column[1].any():
                continue
            ap = metrics.average_precision(*column, protocol)
            assert ap == pytest.approx(reference_ap(*column, protocol), abs=1e-12)
            compared += 1
    assert compared > 50


def test_lab_agrees_with_scikit_learn_without_ties():
    rng = np.random.default_rng(0)
    scores, labels = rng.random(500, np.float32), rng.integers(0, 2, 500)
    ap = metrics.average_precision(scores, labels, None, "lab")
    assert ap == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("num_images", [30, 260])  # sums of 8 bits, and of more
@pytest.mark.parametrize("protocol", metrics.PROTOCOLS)
def test_counts_equal_explicit_repetition(protocol, num_images):
    rng = np.random.default_rng(1)
    for seed in range(10):
        scores, labels, difficult = random_problem(seed, num_images, 1)
        counts = rng.poisson(rng.choice([0.1, 1, 4], size=25), size=(num_images, 25))
        arrays = metrics._checked(scores, labels, difficult, None)
        (aps,) = metrics._average_precisions(arrays, [protocol], [counts])[protocol]
        for r, ap in enumerate(aps):
            repeated = [np.repeat(x[:, 0], counts[:, r]) for x in (scores, labels, difficult)]
            if repeated[1].any():
                assert ap == pytest.approx(reference_ap(*repeated, protocol), abs=1e-12)
            else:
                assert np.isnan(ap)


@pytest.mark.parametrize("max_counts", [1 << 20, 100])
def test_intervals_equal_a_plain_bootstrap(monkeypatch, max_counts):
    monkeypatch.setattr(resampling, "MAX_COUNTS_PER_CHUNK", max_counts)
    monkeypatch.setattr(resampling, "MAX_BYTES_OF_COUNTS", max_counts)
    scores, labels, difficult = random_problem(3, 30)
    labels[:, 2] = 0
    labels[4, 2] = 1  # a third of the resamples miss the only boat
    result = evaluate(scores, labels, difficult, num_resamples=40, seed=7)
    images = np.random.default_rng(7).integers(30, size=(40, 30))
    for protocol in metrics.PROTOCOLS:
        maps, boats = [], []
        for drawn in np.sort(images, axis=1):
            arrays = [x[drawn].T for x in (scores, labels, difficult)]
            columns = list(zip(*arrays, strict=True))
            aps = [reference_ap(*c, protocol) if c[1].any() else None for c in columns]
            maps.append(np.mean([ap for ap in aps if ap is not None]))
            boats.append(aps[2])
        boats = [ap for ap in boats if ap is not None]
        assert 0 < len(boats) < 40
        expected = np.percentile(maps, [2.5, 97.5])
        np.testing.assert_allclose(result["map_interval"][protocol], expected, atol=1e-12)
        expected = np.percentile(boats, [2.5, 97.5])
        interval = result["ap_interval"][protocol]["boat"]
        np.testing.assert_allclose(interval, expected, atol=1e-12)


def test_small_pieces_change_no_bit(monkeypatch):
    problem = random_problem(3, 300)
    whole = evaluate(*problem, num_resamples=50)
    monkeypatch.setattr(resampling, "MAX_BYTES_OF_COUNTS", 600 * 20)  # two bytes a count
    assert evaluate(*problem, num_resamples=50) == whole
    monkeypatch.setattr(resampling, "MAX_COUNTS_PER_CHUNK", 100)
    in_rows = evaluate(*problem, num_resamples=50)
    assert in_rows.pop("loss") == pytest.approx(whole.pop("loss"), rel=1e-14)


def test_scores_of_single_precision_rank_as_those_of_double():
    scores, labels, difficult = random_problem(3, 300)
    found, expected = (
        evaluate(scores.astype(np.float32).astype(dtype), labels, difficult, num_resamples=20)
        for dtype in (np.float32, np.float64)
    )
    assert found == expected


def test_interval_holds_the_estimate_and_narrows_with_more_images():
    widths = {}
    for num_images in (100, 1600):
        result = evaluate(*random_problem(0, num_images), num_resamples=300)
        for protocol, (low, high) in result["map_interval"].items():
            assert low < result["map"][protocol] < high
            widths[protocol, num_images] = high - low
    for protocol in metrics.PROTOCOLS:
        # 16 times the images: a quarter of the width.
        ratio = widths[protocol, 100] / widths[protocol, 1600]
        assert ratio == pytest.approx(4, rel=0.4), protocol


def test_outcome_of_a_small_evaluation():
    scores = np.array([[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.4, 0.7, 0.2], [0.1, 0.5, 0.1]])
    labels = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]])
    difficult = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
    result = evaluate(scores, labels, difficult, num_resamples=50)
    assert result["ap"]["lab"] == {"cat": pytest.approx(5 / 6), "dog": 0.5, "boat": None}
    assert result["ap"]["voc2007"] == {"cat": 1.0, "dog": 0.5, "boat": None}
    assert result["map"]["lab"] == pytest.approx(2 / 3)
    assert result["map"]["voc2010"] == pytest.approx(3 / 4)
    assert result["ap_interval"]["lab"]["boat"] is None
    assert result["positives"] == {"cat": 2, "dog": 1, "boat": 0}
    assert result["without_positives"] == ["boat"]
    assert result["not_computable"] == {}
    assert result["num_images"] == 4
    assert result["binary_accuracy"] == pytest.approx(9 / 12)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_without_difficult_flags_only_lab_is_computable():
    scores, labels, _ = random_problem(0, 30)
    result = evaluate(scores, labels, None, num_resamples=20)
    reason = "there are no difficult flags"
    assert result["not_computable"] == {"voc2007": reason, "voc2010": reason}
    assert result["map"]["lab"] > 0
    assert result["map"]["voc2007"] is None
    assert result["map_interval"]["voc2010"] is None
    assert result["ap"]["voc2010"] == dict.fromkeys(CLASSES)
    json.dumps(result, allow_nan=False)
    with pytest.raises(UserError, match="voc2007 is not computable: there are no difficult"):
        metrics.average_precision(scores[:, 0], labels[:, 0], None, "voc2007")


def test_without_any_positive_there_is_no_map():
    scores, labels, difficult = random_problem(0, 10)
    result = evaluate(scores, 0 * labels, difficult, num_resamples=20)
    assert result["map"] == dict.fromkeys(metrics.PROTOCOLS)
    assert result["map_interval"] == dict.fromkeys(metrics.PROTOCOLS)
    assert result["without_positives"] == list(CLASSES)
    json.dumps(result, allow_nan=False)
    with pytest.raises(UserError, match="no class has a positive"):
        metrics.paired_difference(scores, scores, 0 * labels, difficult, "lab")


def test_no_resamples_means_no_intervals():
    result = evaluate(*random_problem(0, 10), num_resamples=0)
    assert result["map"]["lab"] > 0
    assert result["map_interval"]["lab"] is None


def test_same_seed_same_intervals():
    problem = random_problem(0, 40)
    first = evaluate(*problem, num_resamples=50, seed=1)
    assert evaluate(*problem, num_resamples=50, seed=1) == first
    assert evaluate(*problem, num_resamples=50, seed=2)["map_interval"] != first["map_interval"]


@pytest.mark.parametrize("protocol", metrics.PROTOCOLS)
def test_paired_difference(protocol):
    scores, labels, difficult = random_problem(0, 200)
    worse = 0.5 * scores + 0.5 * np.random.default_rng(5).random(scores.shape)

    def difference(a, b):
        return metrics.paired_difference(a, b, labels, difficult, protocol, num_resamples=200)

    assert difference(scores, scores) == (0, 0, 0)
    value, low, high = difference(scores, worse)
    assert 0 < low < value < high
    assert difference(worse, scores) == pytest.approx((-value, -high, -low), abs=1e-12)
    maps = [evaluate(s, labels, difficult)["map"][protocol] for s in (scores, worse)]
    assert value == pytest.approx(maps[0] - maps[1], abs=1e-12)


def test_pairing_cancels_what_both_have_in_common():
    scores, labels, difficult = random_problem(0, 200)
    nearly = 0.95 * scores + 0.05 * np.random.default_rng(5).random(scores.shape)
    _, low, high = metrics.paired_difference(scores, nearly, labels, difficult, "voc2010")
    alone = evaluate(scores, labels, difficult)["map_interval"]["voc2010"]
    assert high - low < 0.5 * (alone[1] - alone[0])


def test_table():
    scores = np.array([[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.4, 0.7, 0.2]])
    labels = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0]])
    result = evaluate(scores, labels, None, num_resamples=0)
    result["map_interval"]["lab"] = [0.5, 0.75]
    assert metrics.format_table(result, CLASSES).splitlines() == [
        "AP in percent [95 % interval], 3 images",
        "class  positives  lab",
        "cat            2  83.3",
        "dog            1  50.0",
        "boat           0  -",
        "mAP               66.7 [50.0, 75.0]",
        "no positives, left out of mAP: boat",
        "lab: scikit-learn average_precision_score, difficult images are negatives",
        "voc2007: not computable, there are no difficult flags",
        "voc2010: not computable, there are no difficult flags",
        "binary accuracy at 0.5: 66.7",
    ]


def test_table_has_a_column_for_each_protocol():
    result = evaluate(*random_problem(0, 30), num_resamples=20)
    lines = metrics.format_table(result, CLASSES).splitlines()
    assert lines[1].split() == ["class", "positives", "lab", "voc2007", "voc2010"]
    for name, value in result["map"].items():
        at = lines[1].index(name)
        assert lines[5][at:].startswith(f"{100 * value:.1f} [")


def test_messages():
    scores, labels, difficult = random_problem(0, 10)
    broken = scores.copy()
    broken[[1, 2], 0], broken[3, 2] = np.nan, np.inf
    cases = [
        ((broken, labels, difficult), r"3 of 30 scores are NaN or infinite \(cat: 2, boat: 1\)"),
        ((scores, labels[1:], difficult), r"scores \(10, 3\) and labels \(9, 3\)"),
        ((scores, labels, difficult[:, :2]), r"scores \(10, 3\) and difficult \(10, 2\)"),
        ((scores[:, :2], labels[:, :2], None), r"\[images, 3 classes\]"),
        ((scores, 2 * labels - 1, difficult), "labels must be 0 or 1, got -1"),
        ((scores, labels, -difficult), "difficult must be 0 or 1, got -1"),
        ((scores[:0], labels[:0], None), "there are no scores"),
    ]
    for arrays, message in cases:
        with pytest.raises(UserError, match=message) as raised:
            evaluate(*arrays)
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="unknown protocol 'voc': choose one of lab, voc2007"):
        metrics.average_precision(scores[:, 0], labels[:, 0], difficult[:, 0], "voc")
    with pytest.raises(UserError, match="at least 1"):
        metrics.paired_difference(scores, scores, labels, difficult, "lab", num_resamples=0)


def test_logits_rank_what_saturated_scores_tie():
    """Scores that are all 1 in float32 are one big tie; their logits are the ranking."""
    _, labels, difficult = random_problem(0, 60)
    logits = 40 + 3 * labels + np.random.default_rng(1).normal(size=labels.shape)
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    assert np.all(scores == 1)
    found = evaluate(scores, labels, difficult, ranked_by=logits, num_resamples=20)
    plain = evaluate(logits, labels, difficult, num_resamples=20)
    for quantity in ("map", "map_interval", "ap", "ap_interval"):
        assert found[quantity] == plain[quantity]
    # What is no ranking stays that of the scores.
    assert found["binary_accuracy"] == np.mean(labels)
    tied = evaluate(scores, labels, difficult, num_resamples=0)
    assert found["map"]["lab"] > tied["map"]["lab"] + 0.3
    backwards = [x[::-1] for x in (scores, labels, difficult)]
    again = evaluate(*backwards, ranked_by=logits[::-1], num_resamples=0)
    assert again["map"] == {name: pytest.approx(of) for name, of in found["map"].items()}
    with pytest.raises(UserError, match="NaN or infinite"):
        evaluate(scores, labels, difficult, ranked_by=np.where(labels == 1, np.inf, logits))


def test_the_mean_alone_is_that_of_all():
    problem = random_problem(3, 50)
    result = evaluate(*problem, num_resamples=0)
    for protocol in metrics.PROTOCOLS:
        mean = metrics.mean_average_precision(*problem, CLASSES, protocol)
        assert mean == result["map"][protocol]


def test_a_resample_is_the_map_of_its_images():
    scores, labels, _ = random_problem(0, 60)
    rng = np.random.default_rng(0)
    rows = [np.arange(len(scores)), *rng.integers(len(scores), size=(3, len(scores)))]
    counts = np.stack([np.bincount(x, minlength=len(scores)) for x in rows], axis=1)
    for resample, mean in zip(
        rows, metrics.resampled_map(scores, labels, "lab", counts), strict=True
    ):
        expected = metrics.mean_average_precision(
            scores[resample], labels[resample], None, CLASSES, "lab"
        )
        assert mean == pytest.approx(expected, abs=1e-12)


def test_where_nothing_is_known_there_is_no_loss():
    scores, labels = np.full((3, 2), 0.4), np.zeros((3, 2))
    result = metrics.evaluate_scores(
        scores, labels, None, ["a", "b"], label_mask=np.zeros((3, 2)), num_resamples=2
    )
    assert result["loss"] is None
    assert result["binary_accuracy"] is None
    assert "binary accuracy" not in metrics.format_table(result, ["a", "b"])


def test_precision_and_recall_are_scikit_learns_with_ties_as_well():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    for scores in (rng.normal(size=200), rng.integers(0, 9, 200) / 8, np.zeros(200)):
        expected = precision_recall_curve(labels, scores)[:2]
        found = metrics.precision_recall(scores, labels)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_without_a_positive_recall_is_one_but_for_the_last():
    precision, recall = metrics.precision_recall(np.array([0.1, 0.2]), np.array([0, 0]))
    assert precision.tolist() == [0, 0, 1]
    assert recall.tolist() == [1, 1, 0]


def test_resamples_of_two_scores_are_paired_as_their_difference_is():
    scores, labels, _ = random_problem(0, 60)
    others, known = 1 - scores, np.random.default_rng(1).integers(0, 2, labels.shape)
    options = {"label_mask": known, "num_resamples": 40, "seed": 5}
    (one, samples), (other, others_samples) = (
        metrics.bootstrapped_map(its, labels, "lab", **options) for its in (scores, others)
    )
    expected = metrics.paired_difference(scores, others, labels, None, "lab", **options)
    assert (one - other, *resampling.interval_of(samples - others_samples)) == expected


@pytest.mark.parametrize("ties", [True, False])
def test_places_among_sorted_scores_tell_what_a_ranking_does(ties):
    scores, labels, difficult = random_problem(2, 300)
    scores = scores if ties else np.random.default_rng(1).random(scores.shape)
    known = np.random.default_rng(0).random(labels.shape) < 0.8
    arrays = metrics._checked(scores, labels, difficult, known)
    names = list(metrics.PROTOCOLS)
    once = [resampling.once(len(scores))]
    ranked = metrics._average_precisions(arrays, names, once)
    for name, aps in metrics._point_estimates(arrays, names).items():
        np.testing.assert_array_equal(aps, ranked[name][:, 0])
