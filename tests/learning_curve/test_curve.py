"""Planted curves whose law is known, and curves of which nothing can be said."""

import json

import numpy as np
import pytest

from vtl import schema
from vtl.errors import UserError
from vtl.learning_curve import conclusion, curve, power_law
from vtl.learning_curve.curve import Measured

SHARES = [0.05, 0.1, 0.2, 0.5, 1.0]
NUM_DRAWS, NUM_RESAMPLES = 3, 300
SEEDS = range(20)


def law_of(floor, excess, rate):
    return 1 - floor - excess * np.array(SHARES) ** -rate


def plant(maps, seed, *, draws=NUM_DRAWS, noise=0.01):
    """mAPs [K] as they would be measured: noise of the test photos, and of draws of few labels."""
    rng = np.random.default_rng(seed)
    maps = np.array(maps)
    sizes = np.array(SHARES[: len(maps)]) if len(maps) < len(SHARES) else np.array(SHARES)
    of_draws = 0.4 * noise * sizes[:, None] ** -0.5 * rng.normal(size=(len(maps), draws))
    of_draws[-1] = 0
    own = 0.2 * noise
    point = maps[:, None] + of_draws + noise * rng.normal() + own * rng.normal(size=(len(maps), 1))
    of_photos = noise * np.random.default_rng(99).normal(size=NUM_RESAMPLES)
    own_of_photos = own * rng.normal(size=(len(maps), 1, NUM_RESAMPLES))
    return Measured(point, point[..., None] + of_photos + own_of_photos)


def conclude(maps, seed=0, *, num_photos=1000, shares=SHARES, tuned=None, **options):
    curves = {"probe": plant(maps, seed, **options)}
    if tuned is not None:
        curves["fine_tuned"] = Measured(
            curves["probe"].maps + tuned,
            curves["probe"].resampled
            + tuned
            + 0.002 * np.random.default_rng(seed).normal(size=NUM_RESAMPLES),
        )
    return curve.conclude(shares, num_photos, curves, seed=seed)


def test_a_law_without_noise_is_found():
    floor, excess, rate = 0.2, 0.1, power_law.RATES[60]
    found = power_law.fit(np.array(SHARES), law_of(floor, excess, rate)[:, None], np.ones(5))
    np.testing.assert_allclose(np.ravel(found), (floor, excess, rate), rtol=1e-6)
    assert found.map_at(2.0)[0] == pytest.approx(1 - floor - excess * 2**-rate)


@pytest.mark.parametrize(
    "law",
    [
        pytest.param((0.2, 0.1, 0.5), id="as learning curves are"),
        pytest.param((0.25, 0.05, 1.0), id="nearly at its end"),
        pytest.param((0.0, 0.35, 0.2), id="far from its end"),
    ],
)
def test_what_twice_the_labels_give_is_foreseen(law):
    _, excess, rate = law
    gain = excess * (1 - 2**-rate)
    foreseen = [conclude(law_of(*law), seed)["probe"]["twice"] for seed in SEEDS]
    covered = [of["interval"][0] <= gain <= of["interval"][1] for of in foreseen]
    assert np.mean(covered) >= 0.8
    assert np.mean([of["gain"] for of in foreseen]) == pytest.approx(gain, abs=0.005)
    assert np.mean([of["interval"][1] - of["interval"][0] for of in foreseen]) < 1.5 * gain
    assert [of["why_nothing"] for of in foreseen].count(None) >= 16


def test_of_a_flat_curve_nothing_is_said():
    found = [conclude(law_of(0.3, 0.0, 0.5), seed)["probe"]["twice"] for seed in SEEDS]
    assert [of["why_nothing"] in ("flat", "falls") for of in found].count(True) >= 18
    assert all(of["interval"][0] <= 0 for of in found if of["why_nothing"])


@pytest.mark.parametrize(
    ("why", "maps", "options"),
    [
        ("flat", law_of(0.3, 0.001, 0.5), {"noise": 0.05}),
        ("falls", law_of(0.3, -0.1, 0.5), {"noise": 0.002}),
        ("misfit", [0.5, 0.6, 0.5, 0.6, 0.5], {"noise": 0.002}),
        ("few_shares", law_of(0.2, 0.1, 0.5)[2:], {"shares": SHARES[2:]}),
        ("one_draw", law_of(0.2, 0.1, 0.5), {"draws": 1}),
        ("few_photos", law_of(0.2, 0.1, 0.5), {"num_photos": 99}),
    ],
)
def test_where_nothing_can_be_said_the_sentence_says_why(why, maps, options):
    found = conclude(maps, tuned=0.02, **options)
    assert found["probe"]["twice"]["why_nothing"] == why
    assert "more" not in found
    said = conclusion.sentence(found)
    assert said.startswith(f"Twice the labels: nothing can be said: {conclusion.WHY_NOTHING[why]}")
    assert "fine-tuning instead of the probe: +2.0 [" in said


def test_every_reason_has_words():
    assert set(schema.WHY_NOTHING) == set(conclusion.WHY_NOTHING)
    assert f"than {curve.LEAST_PHOTOS} photos" in conclusion.WHY_NOTHING["few_photos"]
    assert curve.LEAST_SHARES == 4  # which is there in words


@pytest.mark.parametrize(("tuned", "more"), [(0.0, "labels"), (0.03, "open"), (0.15, "finetuning")])
def test_more_labels_are_compared_with_fine_tuning(tuned, more):
    found = conclude(law_of(0.2, 0.1, 0.5), tuned=tuned)  # twice the labels give 2.9 points
    assert found["more"] == more
    assert found["difference"]["map"] == pytest.approx([tuned] * 5)
    low, high = found["difference"]["map_interval"][-1]
    assert low < tuned < high < low + 0.012  # paired: the photos' common noise is far larger
    said = conclusion.sentence(found)
    assert said.endswith(conclusion.MORE[more])
    assert f"; fine-tuning instead of the probe: +{100 * tuned:.1f} [" in said
    assert f"; neither: mAP {100 * found['probe']['map'][-1]:.1f} [" in said


def test_few_draws_have_the_spread_of_their_mean():
    weights = curve.combinations(3, 20_000, seed=0)
    draws = np.array([-1.0, 0.0, 1.0])
    spread = (draws - draws.mean()) @ weights
    t = 4.303  # Student's with two degrees of freedom
    assert np.percentile(spread, 97.5) == pytest.approx(t * draws.std(ddof=1) / 3**0.5, rel=0.07)
    assert not curve.combinations(1, 10, seed=0).any()


def test_scores_are_paired_and_all_photos_are_one_draw():
    rng = np.random.default_rng(0)
    labels = (rng.random((80, 2)) < 0.4).astype(np.uint8)
    good, better = (labels + noise * rng.normal(size=labels.shape) for noise in (1.0, 0.5))
    known = np.ones_like(labels)
    found = curve.score([[good, better], [better]], labels, known, seed=3, num_resamples=50)
    assert found.maps.shape == (2, 2)
    assert found.resampled.shape == (2, 2, 50)
    np.testing.assert_array_equal(found.resampled[0, 1], found.resampled[1, 0])
    np.testing.assert_array_equal(found.resampled[1, 0], found.resampled[1, 1])
    drawn = curve.samples(found, np.zeros((2, 50)))
    np.testing.assert_allclose(drawn.mean(axis=1), found.maps.mean(axis=1))
    with pytest.raises(UserError, match="no class has a positive"):
        curve.score([[good]], 0 * labels, known, seed=0)


def results_of(found):
    """As in results.json."""
    seconds = [1.0, None, 3.0, 60.0, 125.0]
    for name in ("probe", "fine_tuned"):
        if name in found:
            found[name]["seconds"] = seconds
    photos = [50, 100, 200, 500, 1000]
    common = {"protocol": "lab", "draws": 3, "num_test": 60, "missing": {"5": ["cat"]}}
    return json.loads(json.dumps({"fractions": SHARES, "photos": photos, **common, **found}))


@pytest.mark.parametrize("tuned", [None, 0.02])
def test_what_is_concluded_passes_the_schema_and_is_a_table(tuned):
    found = results_of(conclude(law_of(0.2, 0.1, 0.5), tuned=tuned))
    schema.learning_curve(found, "curve")
    _, head, first, second, *_ = conclusion.lines(found)
    assert head.split()[:3] == ["labels", "photos", "probe"]
    assert first.startswith("5 %     50 ")
    assert second.rstrip().endswith("-")
    assert ("difference" in head) == (tuned is not None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fractions": [0.5, 0.9]}, "curve.fractions"),
        ({"photos": [1, 2]}, "curve.photos"),
        ({"missing": {"5": []}}, "curve.missing.5"),
        ({"more": "<b>"}, "curve.more"),
        ({"difference": None}, "curve.difference"),
        ({"probe": {}}, "curve.probe"),
    ],
)
def test_what_is_damaged_is_named(change, message):
    found = results_of(conclude(law_of(0.2, 0.1, 0.5), tuned=0.02)) | change
    with pytest.raises(UserError, match=message):
        schema.learning_curve(found, "curve")
