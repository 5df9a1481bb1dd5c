"""How thresholds are best chosen: by counting right answers, or by calibrated probabilities.

    python -m experiments.threshold_rules --runs runs/finetune_demo runs/probe

Of each finished run, photos of its test split are drawn to choose on, and the answers on the others
are scored, REPETITIONS times. `counts` takes the threshold whose F1 on the drawn photos' labels is
the best; `expected` is vtl's: the best expected F1 by calibrated probabilities. The macro F1 is
over the classes that the other photos show. Takes a minute; writes experiments/threshold_rules.csv.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.special import expit
from sklearn.metrics import f1_score, precision_recall_curve

from experiments import tables
from vtl.decisions import probabilities
from vtl.evaluation import calibration, thresholds
from vtl.evaluation.thresholds import Unseen
from vtl.files import user_path
from vtl.run_directory import commit

NUM_CHOSEN_ON = (100, 250)
REPETITIONS = 30


def by_counts(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The threshold [C] of the best F1 on these photos [N, C]; a half without a positive."""
    chosen = np.full(scores.shape[1], 0.5)
    for column in range(scores.shape[1]):
        if labels[:, column].any():
            precision, recall, cuts = precision_recall_curve(labels[:, column], scores[:, column])
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
            chosen[column] = cuts[f1[:-1].argmax()]
    return chosen


def macro_f1(given: np.ndarray, labels: np.ndarray) -> float:
    """Over the classes with a positive."""
    shown = labels.any(axis=0)
    return float(f1_score(labels[:, shown], given[:, shown], average="macro", zero_division=0))


def measure(logits: np.ndarray, labels: np.ndarray, num_chosen_on: int) -> list[dict[str, float]]:
    """The macro F1 of each rule and the Brier scores, once a repetition."""
    rng, found = np.random.default_rng(0), []
    for _ in range(REPETITIONS):
        order = rng.permutation(len(logits))
        inside, outside = order[:num_chosen_on], order[num_chosen_on:]
        unseen = Unseen(logits[inside], labels[inside], np.ones_like(labels[inside]), "drawn")
        classes = [str(column) for column in range(labels.shape[1])]
        decisions, _ = thresholds.decide(unseen, classes, "f1", one_label_each=False, seed=0)
        assert decisions
        p = probabilities(logits[outside], decisions, one_label_each=False)
        raw, truth = expit(logits), labels[outside]
        known = np.ones_like(truth)
        found.append(
            {
                "half": macro_f1(raw[outside] >= 0.5, truth),
                "counts": macro_f1(raw[outside] >= by_counts(raw[inside], labels[inside]), truth),
                "expected": macro_f1(p >= np.array(decisions.thresholds, np.float32), truth),
                "brier_raw": calibration.brier(raw[outside], truth, known) or 0.0,
                "brier_calibrated": calibration.brier(p, truth, known) or 0.0,
            }
        )
    return found


def main() -> None:
    """Measure every run, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", nargs="+", required=True, type=user_path)
    rows = []
    for run in parser.parse_args().runs:
        with np.load(run / "scores_test.npz") as scores:
            logits, labels = scores["logits"].astype(np.float64), scores["labels"]
        for num_chosen_on in NUM_CHOSEN_ON:
            found = measure(logits, labels, num_chosen_on)
            gain = np.array([each["expected"] - each["counts"] for each in found])
            means = {name: np.mean([each[name] for each in found]) for name in found[0]}
            rows.append(
                {
                    "run": run.name,
                    "chosen_on": num_chosen_on,
                    **{name: f"{100 * means[name]:.1f}" for name in ("half", "counts", "expected")},
                    "expected_over_counts": f"{100 * gain.mean():.2f}",
                    "standard_error": f"{100 * gain.std() / len(gain) ** 0.5:.2f}",
                    **{name: f"{means[name]:.4f}" for name in means if name.startswith("brier")},
                    "commit": commit(),
                }
            )
    path = Path(__file__).with_suffix(".csv")
    tables.write_csv(path, rows)
    print(path.read_text())


if __name__ == "__main__":
    main()
