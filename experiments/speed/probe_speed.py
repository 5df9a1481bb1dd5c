"""Seconds of a linear probe of VOC2007's size beside Keras' and PyTorch's, measured in one run.

    python -m experiments.speed.probe_speed

This needs the extra `parity`. It trains on 5,011 x 2048 features of 20 classes for 20 epochs, by
SGD at 0.1 in batches of 32. Repetitions are interleaved, so that whatever else the machine does
slows all alike. `first` is the first call, with compilation; `median` is that of the later ones.
Writes experiments/speed/probe_speed.csv.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from experiments import tables
from vtl.training import fit_linear

NUM_EPOCHS, BATCH_SIZE, LEARNING_RATE = 20, 32, 0.1


def make_data(num_images: int, num_features: int, num_classes: int) -> tuple[np.ndarray, ...]:
    """Features like those after a ReLU, and labels that follow them: float32 [N, D], [N, C]."""
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(size=(num_images, num_features)), 0).astype(np.float32)
    logits = features @ rng.normal(size=(num_features, num_classes))
    return features, (logits > np.quantile(logits, 0.92, axis=0)).astype(np.float32)


def ours(features: np.ndarray, labels: np.ndarray) -> float:
    """The last loss of one jitted scan over all epochs."""
    label_mask = np.ones_like(labels)
    _, losses = fit_linear.dense(
        features,
        labels,
        label_mask,
        learning_rate=LEARNING_RATE,
        num_epochs=NUM_EPOCHS,
        batch_size=BATCH_SIZE,
    )
    return float(np.mean(losses[-100:]))


def keras_fit(features: np.ndarray, labels: np.ndarray) -> float:
    """Dense(C, sigmoid) and `fit`, as in the lab; Keras on its JAX backend."""
    model = keras.Sequential([keras.layers.Dense(labels.shape[1], activation="sigmoid")])
    model.compile(keras.optimizers.SGD(LEARNING_RATE), "binary_crossentropy")
    history = model.fit(features, labels, BATCH_SIZE, NUM_EPOCHS, verbose=0)
    return history.history["loss"][-1]


def torch_slicing(features: np.ndarray, labels: np.ndarray) -> float:
    """PyTorch, batches by indexing the whole tensor: the fast way there."""
    images, targets = torch.from_numpy(features), torch.from_numpy(labels)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(images))
        return ((images[rows], targets[rows]) for rows in order.split(BATCH_SIZE))

    return _torch_loop(batches, images.shape[1], targets.shape[1])


def torch_loader(features: np.ndarray, labels: np.ndarray) -> float:
    """PyTorch, batches by a DataLoader, as its tutorials have it."""
    dataset = TensorDataset(torch.from_numpy(features), torch.from_numpy(labels))
    loader = DataLoader(dataset, BATCH_SIZE, shuffle=True)
    return _torch_loop(lambda: loader, features.shape[1], labels.shape[1])


def _torch_loop(batches: Callable[..., Any], num_features: int, num_classes: int) -> float:
    model = torch.nn.Linear(num_features, num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    losses = []
    for _ in range(NUM_EPOCHS):
        for images, targets in batches():
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return float(torch.stack(losses[-100:]).mean())


PEERS = {
    "vtl": ours,
    "pytorch_slicing": torch_slicing,
    "pytorch_dataloader": torch_loader,
    "keras_fit": keras_fit,
}


def main() -> None:
    """Measure every peer and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    data = make_data(5011, 2048, 20)
    seconds: dict[str, list[float]] = {peer: [] for peer in PEERS}
    losses = {}
    for _ in range(1 + options.repetitions):
        for peer, train in PEERS.items():
            start = time.perf_counter()
            losses[peer] = train(*data)
            seconds[peer].append(time.perf_counter() - start)
    medians = {peer: float(np.median(times[1:])) for peer, times in seconds.items()}
    rows = [
        {
            "peer": peer,
            "first": round(times[0], 2),
            "median": round(medians[peer], 2),
            "range": f"{min(times[1:]):.2f} to {max(times[1:]):.2f}",
            "times_ours": round(medians[peer] / medians["vtl"], 1),
            "last_loss": round(losses[peer], 3),
            "cores": len(os.sched_getaffinity(0)),
            "device": jax.devices()[0].device_kind,
            "versions": f"jax {jax.__version__}, torch {torch.__version__}, "
            f"keras {keras.__version__}",
        }
        for peer, times in seconds.items()
    ]
    tables.write_csv(options.out, rows)
    for row in rows:
        tables.show(row)


if __name__ == "__main__":
    main()
