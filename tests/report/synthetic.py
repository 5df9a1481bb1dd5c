"""Run directories with chosen scores, written without any training."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from vtl.evaluation import gallery, metrics
from vtl.evaluation.outcome import split_last

CLASSES = ("bird", "cat", "dog", "person")
NUM_PHOTOS = {"train": 40, "test": 60}
VERSIONS = {"python": "3.11.7", "vtl": "0.1.0", "jax": "0.10.2", "numpy": "2.4.6"}
NUM_STUDENTS = 30
RULES = {
    "full": [[".*", 1.0]],
    "partial": [["fc/.*", 1.0], ["layer4_.*", 1.0], [".*", None]],
    "head": [["fc/.*", 1.0], [".*", None]],
    "scratch": [[".*", 1.0]],
}


def ids_of(role: str, count: int) -> np.ndarray:
    return np.array([f"{role}_{row:04}" for row in range(count)])


def sha256_of(ids: np.ndarray) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def labels_of(role: str, classes: tuple[str, ...] = CLASSES) -> np.ndarray:
    rng = np.random.default_rng(len(role))
    return rng.binomial(1, 0.4, (NUM_PHOTOS[role], len(classes))).astype(np.int64)


def noisy_scores(labels: np.ndarray, noise: float, seed: int = 0) -> np.ndarray:
    """Scores that are better with less noise."""
    logits = 4 * labels - 2 + noise * np.random.default_rng(seed).normal(size=labels.shape)
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def write_run(
    path: Path,
    regime: str,
    noise: float = 2.0,
    *,
    classes: tuple[str, ...] = CLASSES,
    data_name: str = "pets",
    scores: dict[str, np.ndarray] | None = None,
    labels: dict[str, np.ndarray] | None = None,
    config: dict | None = None,
    results: dict | None = None,
) -> Path:
    """Write a finished run of a regime; `config` and `results` replace the keys that they have."""
    labels = labels or {role: labels_of(role, classes) for role in NUM_PHOTOS}
    scores = scores or {role: noisy_scores(labels[role], noise) for role in labels}
    path.mkdir(parents=True)
    task = "probe" if regime == "probe" else "finetune"
    outcome, ids = {}, {}
    for role, true_labels in labels.items():
        ids[role] = ids_of(role, len(true_labels))
        difficult = np.zeros_like(true_labels)
        difficult[0] = 1 - true_labels[0]
        outcome[role] = metrics.evaluate_scores(
            scores[role], true_labels, difficult, classes, num_resamples=100
        )
        np.savez(
            path / f"scores_{role}.npz",
            scores=scores[role],
            labels=true_labels,
            difficult=difficult,
            ids=ids[role],
            classes=classes,
        )
    weights = {"name": "tiny", "sha256": "ab" * 32, "preprocessing": {"resize": "squash"}}
    default_config = {"task": task, "seed": 0, "num_epochs": 2.0}
    if task == "finetune":
        default_config |= {"optim": {"rules": RULES[regime]}}
        default_config |= {"data": {"train_split": "train", "val_split": "", "test_split": "test"}}
        _write_gallery(path, scores["test"], labels["test"], ids["test"], classes)
    (path / "config.json").write_text(json.dumps(default_config | (config or {})))
    default_results = {
        "task": task,
        "variant": "",
        "status": "finished",
        "classes": list(classes),
        **split_last(outcome),
        "trainable_parameters": 1234,
        "images_per_second": 10.5 if task == "finetune" else None,
        "seconds": {"train": 61.0},
        "seed": 0,
        "weights": None if regime == "scratch" else weights,
        "data": {
            "name": data_name,
            "splits": {"train": "trainval", "test": "test"},
            "ids_sha256": {role: sha256_of(ids[role]) for role in ids},
        },
        "resumed_from": None,
        "commit": "0123456789abcdef",
        "versions": VERSIONS,
        "devices": ["cpu: cpu"],
    }
    (path / "results.json").write_text(json.dumps(default_results | (results or {})))
    lines = [
        {"step": step, "epoch": step / 10, "loss": 1 / step, "binary_accuracy": 1 - 0.5 / step}
        for step in range(1, 21)
    ]
    if task == "finetune":
        lines.append({"step": 20, "epoch": 2.0, "test_map_lab": 0.5})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _write_gallery(
    path: Path, scores: np.ndarray, labels: np.ndarray, ids: np.ndarray, classes: tuple[str, ...]
) -> None:
    choices = gallery.choose(scores, labels, np.zeros_like(labels), 2)
    rows = gallery.chosen_rows(choices)
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (len(rows), 32, 32, 3), np.uint8)
    maps = rng.normal(size=(len(rows), 3, 3, len(classes))).astype(np.float32)
    arrays = gallery.pack(choices, photos, maps, np.zeros(len(classes), np.float32))
    arrays |= {"ids": ids[rows], "scores": scores[rows], "labels": labels[rows]}
    np.savez(path / "gallery_test.npz", classes=classes, **arrays)


def write_study(
    path: Path, epochs: dict[str, dict[str, list[float | None]]], num_epochs: float = 10.0
) -> Path:
    """Write a run of the ReLU study from {network: {activation: epochs by seed}}; None: never."""
    path.mkdir(parents=True)
    networks, lines = {}, []
    for network, times_by_activation in epochs.items():
        activations = {}
        for name, times in times_by_activation.items():
            reached = sorted(num_epochs + 1 if t is None else t for t in times)
            median = reached[len(reached) // 2]
            text = f">{num_epochs:g}" if median > num_epochs else f"{median:.1f}"
            estimate = {
                "median": None if median > num_epochs else median,
                "text": f"{text} [{text}, {text}]",
            }
            activations[name] = {
                "status": "trained",
                "learning_rate": 0.1,
                "at_the_grids_edge": False,
                "epochs_to_accuracy": {"0.97": estimate},
                "epochs_to_lowest_loss": estimate,
                "test_accuracy": {"median": 0.98, "min": 0.97, "max": 0.99},
                "saturated": {"dense1": 0.2} if name == "sigmoid" else {},
                "dead": {"dense1": 0.1} if name == "relu" else {},
                "seeds": {
                    str(seed): {"epochs_to_accuracy": {"0.97": t}}
                    for seed, t in enumerate(times, start=1)
                },
            }
            lines += [
                {
                    "step": moment,
                    "epoch": moment / 2,
                    "network": network,
                    "activation": name,
                    "phase": "final",
                    "seed": seed,
                    "accuracy": 1 - 0.1 / moment,
                    "gradient_norms/dense1": 0.5,
                }
                for seed in range(len(times))
                for moment in range(1, 9)
            ]
        networks[network] = {"num_epochs": num_epochs, "activations": activations}
    config = {
        "task": "relu_study",
        "networks": list(epochs),
        "activations": list(next(iter(epochs.values()))),
        "seeds": [1, 2, 3, 4, 5],
        "thresholds": [0.97],
        "main_threshold": 0.97,
        "num_resamples": 200,
        "data": {"name": "digits", "num_held_out": 300},
    }
    results = {
        "task": "relu_study",
        "variant": "",
        "status": "finished",
        "networks": networks,
        "seed": 0,
        "data": {"name": "digits", "sha256": {"train": "cd" * 32}},
        "commit": "0123456789abcdef",
        "versions": VERSIONS,
        "devices": ["cpu: cpu"],
    }
    (path / "config.json").write_text(json.dumps(config))
    (path / "results.json").write_text(json.dumps(results))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_student(path: Path, noise: float, **config) -> Path:
    """Write a run with times of its own; `config` replaces the keys that it has."""
    optim = {"rules": RULES["full"], "learning_rate": config.pop("learning_rate", 0.1)}
    seconds = {"train": 60 + noise}
    return write_run(
        path, "full", noise, config={"optim": optim} | config, results={"seconds": seconds}
    )


def state_map(path: Path, value: float) -> None:
    """Have results.json state another mAP than that of the scores."""
    results = json.loads((path / "results.json").read_text())
    results["map"]["test"]["lab"] = value
    (path / "results.json").write_text(json.dumps(results))


def write_class(root: Path) -> Path:
    """Runs of NUM_STUDENTS students, then one forged, one copied, one unfinished, one damaged."""
    for number in range(NUM_STUDENTS):
        rate = (0.1, 0.01)[number % 2]
        path = root / f"student_{number:02}" / "finetune"
        write_student(path, 1 + 0.2 * number, seed=number, learning_rate=rate)
    state_map(write_student(root / "forger" / "finetune", 8.0, seed=99), 0.91)
    shutil.copytree(root / "student_03" / "finetune", root / "unoriginal" / "mine")
    unfinished = write_student(root / "hasty" / "finetune", 2.1)
    (unfinished / "results.json").unlink()
    damaged = write_student(root / "unlucky" / "finetune", 2.2) / "scores_test.npz"
    damaged.write_bytes(damaged.read_bytes()[:300])
    return root
