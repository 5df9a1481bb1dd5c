"""How many of labels that were made wrong `vtl review` finds among its first, on animal photos.

    python -m experiments.label_review --features FILE

FILE has the features of all photos, as `vtl deep_features` writes them. A twentieth of the labels
is made wrong in one of three ways:

- `answers`: of all yes and no, of any photo and class, a twentieth is turned round;
- `moved`: of the positive labels a twentieth goes to a class drawn from those the photo lacks;
- `alike`: as many go to the class that looks alike (cat and dog; horse to cow, cow and sheep).

A suspect is one photo and class; it is a hit if its label was changed. The photos' own errors count
as misses. Mean, lowest and highest over the draws. Writes experiments/label_review.csv.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

from experiments import tables
from vtl.data import deep_features
from vtl.review import neighbours, probabilities
from vtl.review.suspects import RANKINGS

NUM_DRAWS = 5
FIRST_SEED = 100
"""The plain ranking was chosen on draws 0 and 1."""

SHARE = 0.05
FIRSTS = (50, 100, 200)
ALIKE = {"cat": "dog", "dog": "cat", "horse": "cow", "cow": "sheep", "sheep": "cow"}

Labels = np.ndarray
Noise = Callable[[Labels, tuple[str, ...], np.random.Generator], Labels]


def answers(labels: Labels, classes: tuple[str, ...], rng: np.random.Generator) -> Labels:
    """Yes and no turned round."""
    del classes
    turned = labels.ravel().copy()
    turned[rng.choice(turned.size, round(SHARE * turned.size), replace=False)] ^= 1
    return turned.reshape(labels.shape)


def moved(labels: Labels, classes: tuple[str, ...], rng: np.random.Generator) -> Labels:
    """Positive labels at other classes."""
    del classes
    places, changed = np.argwhere(labels), labels.copy()
    for row, column in rng.permutation(places)[: round(SHARE * len(places))]:
        changed[row, column] = 0
        changed[row, rng.choice(np.flatnonzero(labels[row] == 0))] = 1
    return changed


def alike(labels: Labels, classes: tuple[str, ...], rng: np.random.Generator) -> Labels:
    """Positive labels at the class that looks alike."""
    to = {classes.index(name): classes.index(other) for name, other in ALIKE.items()}
    places, changed = np.argwhere(labels), labels.copy()
    may_move = [(row, c) for row, c in places if c in to and not labels[row, to[c]]]
    for row, column in rng.permutation(may_move)[: round(SHARE * len(places))]:
        changed[row, column], changed[row, to[column]] = 0, 1
    return changed


NOISES: dict[str, Noise] = {"answers": answers, "moved": moved, "alike": alike}


def main() -> None:
    """Measure both rankings and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", required=True)
    options = parser.parse_args()
    data = deep_features.read(options.features)
    features = np.concatenate([split.features for split in data.splits.values()])
    labels = np.concatenate([split.labels for split in data.splits.values()])
    counts, groups = np.ones_like(labels), neighbours.find(features).groups
    rows: list[tables.Row] = []
    for noise, make_wrong in NOISES.items():
        found: dict[str, list[list[float]]] = {name: [] for name in RANKINGS}
        num_changed = 0
        for draw in range(NUM_DRAWS):
            wrong = make_wrong(labels, data.classes, np.random.default_rng(FIRST_SEED + draw))
            is_changed = (wrong != labels).ravel()
            num_changed = int(is_changed.sum())
            p = probabilities.out_of_fold(features, wrong, counts, groups, one_label_each=False)
            for name, ranking in RANKINGS.items():
                scores = ranking(wrong, p, counts).ravel()
                hits = is_changed[np.argsort(-scores, kind="stable")]
                measured = [hits[:first].mean() for first in FIRSTS]
                found[name].append([*measured, average_precision_score(is_changed, scores)])
        for name, by_draw in found.items():
            row: tables.Row = {"noise": noise, "ranking": name, "changed": num_changed}
            for place, column in enumerate((*(f"first_{n}" for n in FIRSTS), "ap")):
                percent = 100 * np.array(by_draw)[:, place]
                row[column] = round(float(percent.mean()), 1)
                row[f"{column}_lowest"] = round(float(percent.min()), 1)
                row[f"{column}_highest"] = round(float(percent.max()), 1)
            tables.show(row)
            rows.append(row | {"draws": NUM_DRAWS, "network": data.meta["weights"]["name"]})
            tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


if __name__ == "__main__":
    main()
