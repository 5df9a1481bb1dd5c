"""Which labels look wrong: each a question to a person, the most suspicious first."""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vtl.errors import UserError
from vtl.review.reviewed import Reviewed

KINDS = ("missing", "wrong", "copies", "unlike")
MOST_UNLIKE, UNLIKE_SHARE = 60, 0.05
"""Photos that are like no other: at most so many, and such a share of all."""

MOST_COPIES = 6
"""Photos that one question shows."""

Entry = tuple[int, int, int]
"""Row, column and value of a label."""


class Suspect(NamedTuple):
    """A question about one class; `yes` and `no` are the labels that either answer gives.

    `thought` is the probability of the class in the first of the rows.
    """

    kind: str
    column: int
    rows: tuple[int, ...]
    thought: float
    yes: tuple[Entry, ...]
    no: tuple[Entry, ...]


def plain(labels: np.ndarray, p: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How suspicious each label is, [N, C], above 0 if at all: how far it is from the probability.

    What is usual for labels of its class and kind counts half against it: a class that the probe
    doesn't see would be all suspects. It counts up to twice as much the more another label of the
    photo errs the other way, as where one class was taken for another.
    """
    distance = np.abs(labels - p) * counts
    usual, other = np.zeros_like(distance), np.zeros_like(distance)
    for value in (0, 1):
        is_so = (labels == value) & (counts == 1)
        means = np.sum(distance * is_so, axis=0) / np.maximum(is_so.sum(axis=0), 1)
        usual = np.where(labels == value, means, usual)
        farthest = np.max(distance * is_so, axis=1, keepdims=True)
        other = np.where(labels == value, other, farthest)
    return np.asarray((distance - usual / 2) * (1 + other) - 0.5)


def cleanlab(labels: np.ndarray, p: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The same by cleanlab: what is above 0 is wrong by confident learning.

    Within these and within the others the order is that of cleanlab's self-confidence.

    Raises:
        UserError: it is not installed.
    """
    try:
        from cleanlab.multilabel_classification import filter as by_confidence
    except ImportError:
        raise UserError(
            'cleanlab is not installed: `pip install "vtl[review]"`, or --ranking=plain'
        ) from None
    found = np.abs(labels - p) - 1
    for column in range(labels.shape[1]):
        known = np.flatnonzero(counts[:, column] == 1)
        its = labels[known, column]
        if its.min(initial=1) == its.max(initial=0):
            continue
        # One class as two that exclude each other: those of which it is, and the others.
        pair = np.stack([1 - p[known, column], p[known, column]], axis=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrong = by_confidence.find_multilabel_issues_per_class(
                [[int(value)] for value in its],
                pair,
                filter_by="confident_learning",
                n_jobs=1,
            )
        found[known, column] += wrong[:, 1]
    return found


Ranking = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
RANKINGS: dict[str, Ranking] = {"plain": plain, "cleanlab": cleanlab}


def find(
    of: Reviewed,
    p: np.ndarray,
    groups: np.ndarray,
    likeness: np.ndarray,
    *,
    ranking: str,
    most: int,
) -> list[Suspect]:
    """At most about `most` questions: copies with different labels, suspects, and the unlike.

    p [N, C]; groups, likeness [N] as `neighbours.find` gives them. No label is in two questions.
    """
    asked: set[tuple[int, int]] = set()
    found: list[Suspect] = []

    def ask(suspect: Suspect) -> None:
        places = {entry[:2] for entry in (*suspect.yes, *suspect.no)}
        if places and not places & asked:
            asked.update(places)
            found.append(suspect)

    for suspect in _copies(of, p, groups):
        ask(suspect)
    scores = RANKINGS[ranking](of.labels, p, of.counts)
    for suspect in _contradicted(of, p, scores)[:most]:
        ask(suspect)
    num_unlike = min(MOST_UNLIKE, int(UNLIKE_SHARE * len(likeness)))
    for row in np.argsort(likeness, kind="stable")[:num_unlike].tolist():
        positives = np.flatnonzero(of.labels[row] * of.counts[row]).tolist()
        known = p[row] - 2 * (of.counts[row] == 0)
        for column in positives or [int(known.argmax())]:
            if of.counts[row, column]:
                ask(_question("unlike", of, p, column, [row]))
    return found


def _question(kind: str, of: Reviewed, p: np.ndarray, column: int, rows: Sequence[int]) -> Suspect:
    """Is the class in these photos?"""
    yes = tuple((row, column, 1) for row in rows)
    no = tuple((row, column, 0) for row in rows)
    if of.one_label_each:  # another label takes the place of the one that there is
        olds = [(row, int(of.labels[row].argmax())) for row in rows]
        yes += tuple((row, old, 0) for row, old in olds if old != column)
        no = ()
    return Suspect(kind, column, tuple(rows), float(p[rows[0], column]), yes, no)


def _contradicted(of: Reviewed, p: np.ndarray, scores: np.ndarray) -> list[Suspect]:
    """The labels that the probabilities speak against, the most suspicious first."""
    suspects = []
    if of.one_label_each:
        likeliest, given = p.argmax(axis=1), of.labels.argmax(axis=1)
        rows = np.flatnonzero((likeliest != given) & (of.counts.min(axis=1) == 1))
        rows = rows[np.argsort(-scores[rows, given[rows]], kind="stable")]
        for row in rows.tolist():
            suspects.append(_question("wrong", of, p, int(likeliest[row]), [row]))
        return suspects
    is_against = (scores > 0) & (of.counts == 1)
    places = np.argwhere(is_against)
    order = np.argsort(-scores[is_against], kind="stable")
    for row, column in places[order].tolist():
        kind = "wrong" if of.labels[row, column] else "missing"
        suspects.append(_question(kind, of, p, column, [row]))
    return suspects


def _copies(of: Reviewed, p: np.ndarray, groups: np.ndarray) -> list[Suspect]:
    """Near-duplicates, of which some have a label that others don't have."""
    suspects = []
    order = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(np.diff(groups[order])) + 1
    for members in np.split(order, ends):
        if len(members) < 2:
            continue
        rows = members[:MOST_COPIES]
        is_known = of.counts[rows] == 1
        has = ((of.labels[rows] == 1) & is_known).any(axis=0)
        lacks = ((of.labels[rows] == 0) & is_known).any(axis=0)
        columns = np.flatnonzero(has & lacks).tolist()
        if of.one_label_each and columns:
            columns = [int(p[rows].mean(axis=0).argmax())]
        for column in columns:
            kept = [int(row) for row in rows if of.counts[row, column] == 1]
            suspects.append(_question("copies", of, p, column, kept))
    return suspects
