"""Seconds of a run of the ReLU study's perceptron beside PyTorch's, measured in one run.

    python -m experiments.speed.relu_throughput --root=DIRECTORY

This needs the extra `parity`, and MNIST's four IDX files in DIRECTORY. It trains 784-100-10 with
ReLU for three epochs, by SGD at 0.3 in batches of 128; all peers score the held-out digits ten
times an epoch. PyTorch takes its batches from a DataLoader, as its tutorials do, or by indexing the
whole tensor; images are floats in memory before the clock starts. It is also measured on one
thread, because its threads wait for each other while something else is running. Ours measures
gradient norms and dead units as well. `vtl` is a run by itself; `vtl_together` is one of the eleven
that the study trains at once for an activation. Repetitions are interleaved, so that whatever else
the machine does slows all alike; the first, which compiles, is left out. Writes
experiments/speed/relu_throughput.csv.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from experiments import tables
from vtl.data import batches
from vtl.relu_study import mnist
from vtl.relu_study.mlp import Perceptron
from vtl.training import fit_networks

NUM_EPOCHS, BATCH_SIZE, LEARNING_RATE, NUM_HELD_OUT = 3, 128, 0.3, 3000
MOMENTS_PER_EPOCH, TOGETHER = 10, 11

Batches = Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]


def ours(train: mnist.Digits, held_out: mnist.Digits, num_runs: int) -> float:
    """The last held-out accuracy of `num_runs` runs in one program."""
    num_images = len(train.labels)
    steps = round(num_images / BATCH_SIZE / MOMENTS_PER_EPOCH)
    moments = round(NUM_EPOCHS * num_images / BATCH_SIZE / steps)
    orders = np.stack(
        [
            batches.train_order(
                moments * steps, num_images=num_images, batch_size=BATCH_SIZE, seed=seed
            ).reshape(moments, steps, BATCH_SIZE)
            for seed in range(num_runs)
        ]
    )
    model = Perceptron("relu", "suited")
    start = fit_networks.start(model, (28, 28), range(num_runs))
    rates = np.full(num_runs, LEARNING_RATE, np.float32)
    _, curves = fit_networks.softmax_sgd(model, train, held_out, orders, start, rates)
    return float(np.mean(curves.held_out.accuracy[:, -1]))


class Tensors:
    """The digits as PyTorch takes them: images [N, 784] float32 in [0, 1], labels [N]."""

    def __init__(self, digits: mnist.Digits):
        flat = digits.images.reshape(len(digits.images), -1)
        self.images = torch.from_numpy(flat.astype(np.float32) / 255)
        self.labels = torch.from_numpy(digits.labels.astype(np.int64))


def torch_slicing(train: Tensors, held_out: Tensors, num_threads: int) -> float:
    """Batches by indexing the whole tensor: the fast way there."""
    torch.set_num_threads(num_threads)

    def sliced() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(train.labels))
        return ((train.images[rows], train.labels[rows]) for rows in order.split(BATCH_SIZE))

    return _torch_loop(sliced, held_out)


def torch_loader(train: Tensors, held_out: Tensors, num_threads: int) -> float:
    """Batches by a DataLoader, as its tutorials have it."""
    torch.set_num_threads(num_threads)
    loader = DataLoader(TensorDataset(train.images, train.labels), BATCH_SIZE, shuffle=True)
    return _torch_loop(lambda: iter(loader), held_out)


def _torch_loop(epoch: Batches, held_out: Tensors) -> float:
    model = torch.nn.Sequential(
        torch.nn.Linear(784, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    accuracy = torch.zeros(())
    for _ in range(NUM_EPOCHS):
        for step, (images, labels) in enumerate(epoch(), start=1):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 45 == 0:
                with torch.inference_mode():
                    logits = model(held_out.images)
                    torch.nn.functional.cross_entropy(logits, held_out.labels)
                    accuracy = (logits.argmax(dim=1) == held_out.labels).float().mean()
    return float(accuracy)


def main() -> None:
    """Measure every peer and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    images, labels = mnist.read("mnist", options.root)["train"]
    train = mnist.Digits(images[:-NUM_HELD_OUT], labels[:-NUM_HELD_OUT])
    held_out = mnist.Digits(images[-NUM_HELD_OUT:], labels[-NUM_HELD_OUT:])
    num_threads = torch.get_num_threads()
    tensors = Tensors(train), Tensors(held_out)
    peers: dict[str, tuple[Callable[[], float], int]] = {
        "vtl_together": (lambda: ours(train, held_out, TOGETHER), TOGETHER),
        "vtl": (lambda: ours(train, held_out, 1), 1),
        "pytorch_slicing": (lambda: torch_slicing(*tensors, num_threads), 1),
        "pytorch_slicing_one_thread": (lambda: torch_slicing(*tensors, 1), 1),
        "pytorch_dataloader": (lambda: torch_loader(*tensors, num_threads), 1),
        "pytorch_dataloader_one_thread": (lambda: torch_loader(*tensors, 1), 1),
    }
    seconds: dict[str, list[float]] = {peer: [] for peer in peers}
    accuracy = {}
    for _ in range(1 + options.repetitions):
        for peer, (run, num_runs) in peers.items():
            start = time.perf_counter()
            accuracy[peer] = run()
            seconds[peer].append((time.perf_counter() - start) / num_runs)
    medians = {peer: float(np.median(times[1:])) for peer, times in seconds.items()}
    rows = [
        {
            "peer": peer,
            "seconds_a_run": round(medians[peer], 2),
            "range": f"{min(times[1:]):.2f} to {max(times[1:]):.2f}",
            "images_per_second": round(NUM_EPOCHS * len(train.labels) / medians[peer]),
            "times_vtl_together": round(medians[peer] / medians["vtl_together"], 1),
            "times_vtl": round(medians[peer] / medians["vtl"], 1),
            "held_out_accuracy": round(accuracy[peer], 4),
            "cores": len(os.sched_getaffinity(0)),
            "device": jax.devices()[0].device_kind,
            "versions": f"jax {jax.__version__}, torch {torch.__version__}",
        }
        for peer, times in seconds.items()
    ]
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)
    for row in rows:
        tables.show(row)


if __name__ == "__main__":
    main()
