"""What was measured at K shares of the labels -> intervals, a power law, and what it foresees.

The protocol: mAP (`lab`) on the test split. Photos of test are drawn anew, the same for all points
of both curves, so that their difficulty cancels out of every difference. To each resample's mean
over the D draws of labels comes the draws' spread: one common combination of the draws for all
points, of the size of Student's t with D - 1 degrees of freedom, so that few draws give wide
intervals. The law is fitted to each resample. Intervals are the middle 95 %. All photos are one
subset, which is measured once: what other photos than these would give is in no interval, nor is
how wrong the law may be beyond them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vtl import schema
from vtl.evaluation import metrics
from vtl.evaluation.outcome import MAP_PROTOCOL
from vtl.evaluation.resampling import interval_of
from vtl.learning_curve import power_law

NUM_RESAMPLES = 1000
LEAST_SHARES = power_law.NUM_PARAMETERS + 1
LEAST_PHOTOS = 100
"""Of train, for the law to foresee anything."""

MOST_OFF = 3.0
"""Deviations that a point may be away from the law."""

TWICE = 2.0


class Measured(NamedTuple):
    """mAPs at K shares in D draws, [K, D], and those of R resamples of test, [K, D, R]."""

    maps: np.ndarray
    resampled: np.ndarray


class Foreseen(NamedTuple):
    """The mAP that twice the labels add, also in R resamples; why nothing can be said of it."""

    gain: float
    gains: np.ndarray
    law: dict[str, Any]
    why: str | None


def score(
    logits: Sequence[Sequence[np.ndarray]],
    labels: np.ndarray,
    label_mask: np.ndarray,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> Measured:
    """Of the logits [N, C] on test, by share and draw; of all photos there is one draw.

    Raises:
        UserError: no class has a positive.
    """
    num_draws = max(map(len, logits))
    maps, resampled = [], []
    for of_share in logits:
        found = [
            metrics.bootstrapped_map(
                of_draw,
                labels,
                MAP_PROTOCOL,
                label_mask=label_mask,
                num_resamples=num_resamples,
                seed=seed,
            )
            for of_draw in of_share
        ]
        repeats = num_draws // len(of_share)
        maps.append([mean for mean, _ in found] * repeats)
        resampled.append([samples for _, samples in found] * repeats)
    return Measured(np.array(maps), np.array(resampled))


def combinations(num_draws: int, num_resamples: int, seed: int) -> np.ndarray:
    """Weights [D, R] with which the draws' deviations from their mean have the spread of the mean.

    They are 0 for one draw, of which nobody knows the spread.
    """
    if num_draws == 1:
        return np.zeros((1, num_resamples))
    rng, freedom = np.random.default_rng(seed), num_draws - 1
    normal = rng.normal(size=(num_draws, num_resamples)) / np.sqrt(num_draws * freedom)
    return normal * np.sqrt(freedom / rng.chisquare(freedom, size=num_resamples))


def samples(measured: Measured, weights: np.ndarray) -> np.ndarray:
    """The mean mAP [K, R] in each resample of test and by the `combinations` of draws.

    A resample repeats photos, which raises AP, of some points more than of others. So those of each
    point are moved to have its mAP for their mean.
    """
    centre = np.nanmean(measured.resampled, axis=2) - measured.maps
    resampled = measured.resampled - centre[..., None]
    means = resampled.mean(axis=1)
    return means + np.einsum("kdr,dr->kr", resampled - means[:, None], weights)


def foresee(shares: np.ndarray, maps: np.ndarray, drawn: np.ndarray, num_draws: int) -> Foreseen:
    """What the law of mean mAPs [K], and of their `samples` [K, R], says of twice the labels."""
    drawn = drawn[:, np.isfinite(drawn).all(axis=0)]
    off = np.abs(drawn - np.median(drawn, axis=1, keepdims=True))
    deviations = np.percentile(off, 68.3, axis=1)
    law, laws = (power_law.fit(shares, m, deviations) for m in (maps[:, None], drawn))
    gains = laws.map_at(TWICE) - laws.map_at(1.0)
    gain = float((law.map_at(TWICE) - law.map_at(1.0))[0])
    fitted = np.array([law.map_at(share)[0] for share in shares])
    is_misfit = bool((np.abs(fitted - maps) > MOST_OFF * deviations + 1e-9).any())
    low, high = np.percentile(gains, [2.5, 97.5])
    why = None
    if len(shares) < LEAST_SHARES:
        why = "few_shares"
    elif num_draws == 1:
        why = "one_draw"
    elif is_misfit:
        why = "misfit"
    elif low <= 0:
        why = "flat" if high > 0 else "falls"
    places = np.geomspace(shares[0], TWICE, schema.NUM_PLACES)
    of_law = {
        **{name: float(value[0]) for name, value in law._asdict().items()},
        "shares": places.tolist(),
        "map": [float(law.map_at(place)[0]) for place in places],
        "map_interval": [_interval(laws.map_at(place).clip(0, 1)) for place in places],
    }
    return Foreseen(gain, gains, of_law, why)


def conclude(
    shares: Sequence[float], num_photos: int, curves: dict[str, Measured], seed: int
) -> dict[str, Any]:
    """What results.json says of the curves, `probe` and perhaps `fine_tuned`, at rising shares."""
    first = curves["probe"]
    _, num_draws, num_resamples = first.resampled.shape
    weights = combinations(num_draws, num_resamples, seed)
    drawn = {name: samples(measured, weights) for name, measured in curves.items()}
    found: dict[str, Any] = {}
    of_twice = {}
    for name, measured in curves.items():
        means = measured.maps.mean(axis=1)
        foreseen = foresee(np.array(shares), means, drawn[name], num_draws)
        why = "few_photos" if num_photos < LEAST_PHOTOS else foreseen.why
        of_twice[name] = foreseen._replace(why=why)
        found[name] = {
            "map": means.tolist(),
            "map_interval": [_interval(of_share.clip(0, 1)) for of_share in drawn[name]],
            "maps": measured.maps.tolist(),
            "law": foreseen.law,
            "twice": {
                "photos": round(TWICE * num_photos),
                "gain": foreseen.gain,
                "interval": _interval(foreseen.gains),
                "why_nothing": why,
            },
        }
    if "fine_tuned" in curves:
        tuned, probe = (curves[name].maps.mean(axis=1) for name in ("fine_tuned", "probe"))
        by_resample = drawn["fine_tuned"] - drawn["probe"]
        found["difference"] = {
            "map": (tuned - probe).tolist(),
            "map_interval": [_interval(of_share) for of_share in by_resample],
        }
        if of_twice["probe"].why is None:
            is_finite = np.isfinite(drawn["probe"]).all(axis=0)
            low, high = _interval(of_twice["probe"].gains - by_resample[-1, is_finite])
            found["more"] = "labels" if low > 0 else "finetuning" if high < 0 else "open"
    return found


def _interval(values: np.ndarray) -> list[float]:
    interval = interval_of(values)
    assert interval is not None  # `score` has a mAP
    return interval
