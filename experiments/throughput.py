"""Images a second of our steps beside PyTorch's (eager, channels_last), measured in one run.

    python -m experiments.throughput            # needs the extra `parity`

Repetitions are interleaved, so that what else the machine does hits both alike; compilation and
warm-up are not counted. Inputs are crops of real photos. Writes experiments/throughput.csv.
"""

import argparse
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from sklearn.datasets import load_sample_images

from configs import finetune as finetune_config
from experiments import grid
from tests.references.torch_resnet import TorchResNet, normalised
from vtl.models.resnet import ResNet
from vtl.training import optim, steps
from vtl.training.state import TrainState, make_mesh, replicated
from vtl.weights.preprocessing import TORCHVISION

NUM_CLASSES = 20
REGIMES: dict[str, tuple[str, str]] = {
    "training, everything, BatchNorm frozen": (".*", "frozen"),
    "training, everything, BatchNorm batch": (".*", "batch"),
    "training, last stage and head": (r"(layer4|fc).*", "frozen"),
    "training, head": (r"fc.*", "frozen"),
}
"""What trains, as a regex of a parameter's path, and what its BatchNorms do."""

Step = Callable[[], None]


def photos(batch_size: int, size: int = 224) -> np.ndarray:
    """Crops [batch_size, size, size, 3] uint8 of the two photos that scikit-learn ships."""
    rng = np.random.default_rng(0)
    sources = load_sample_images().images
    crops = []
    for index in range(batch_size):
        photo = sources[index % len(sources)]
        top, left = (rng.integers(side - size) for side in photo.shape[:2])
        crops.append(photo[top : top + size, left : left + size])
    return np.stack(crops)


def random_labels(batch_size: int) -> np.ndarray:
    """Labels [batch_size, NUM_CLASSES] uint8."""
    return np.random.default_rng(0).integers(0, 2, (batch_size, NUM_CLASSES), np.uint8)


def our_steps(batch_size: int) -> dict[str, Step]:
    """Our evaluation step, and our training step in every regime."""
    model, mesh = ResNet(NUM_CLASSES), make_mesh()
    images, labels = jnp.array(photos(batch_size)), jnp.array(random_labels(batch_size))
    batch = {"images": images, "labels": labels, "known": jnp.ones_like(labels)}
    blank = jnp.zeros((1, 64, 64, 3))
    variables = jax.jit(lambda: model.init(jax.random.key(0), blank, live_norms=()))()
    eval_step = steps.make_eval_step(model, TORCHVISION, mesh)

    def training(pattern: str, batch_norm: str) -> Step:
        rules: optim.Rules = ((pattern, 1.0), (".*", None))[: 1 if pattern == ".*" else 2]
        multipliers = optim.resolve_rules(rules, variables["params"])
        config = finetune_config.get_config().optim
        optimizer = optim.make_optimizer(config, lambda step: 1e-3, multipliers)
        train_step = steps.make_train_step(
            model,
            optimizer,
            multipliers,
            batch_norm=batch_norm,
            preprocessing=TORCHVISION,
            augmentation="none",
            seed=0,
            mesh=mesh,
        )
        params, batch_stats = (
            jax.tree.map(jnp.array, variables[c]) for c in ("params", "batch_stats")
        )
        state = TrainState(jnp.int32(0), params, batch_stats, optimizer.init(params))
        state = jax.device_put(state, replicated(mesh))

        def step() -> None:
            nonlocal state
            state, metrics = train_step(state, batch)
            jax.block_until_ready((state, metrics))

        return step

    made: dict[str, Step] = {
        "evaluation": lambda: jax.block_until_ready(eval_step(variables, images)) and None
    }
    return made | {name: training(*regime) for name, regime in REGIMES.items()}


def torch_steps(batch_size: int) -> dict[str, Step]:
    """The same steps as a PyTorch user writes them."""
    images, labels = photos(batch_size), torch.tensor(random_labels(batch_size)).float()

    def new_network() -> TorchResNet:
        network = TorchResNet(50, NUM_CLASSES).eval()
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def batch() -> torch.Tensor:
        return normalised(images).contiguous(memory_format=torch.channels_last)

    network = new_network()

    def evaluation() -> None:
        with torch.inference_mode():
            torch.sigmoid(network(batch()))

    def training(pattern: str, batch_norm: str) -> Step:
        network = new_network().train(batch_norm == "batch")
        for name, parameter in network.named_parameters():
            parameter.requires_grad = re.fullmatch(pattern, name) is not None
        trainable = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trainable, lr=1e-3, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            logits = network(batch())
            torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
            optimizer.step()

        return step

    return {"evaluation": evaluation} | {n: training(*regime) for n, regime in REGIMES.items()}


def seconds_of(step: Step) -> float:
    """The wall time of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    """Measure every step and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    ours, theirs = our_steps(options.batch_size), torch_steps(options.batch_size)
    rows = []
    for name in ours:
        pair = {"vtl": ours[name], "pytorch": theirs[name]}
        for step in pair.values():
            step()
        times: dict[str, list[float]] = {peer: [] for peer in pair}
        for _ in range(options.repetitions):
            for peer, step in pair.items():
                times[peer].append(seconds_of(step))
        rates = {peer: options.batch_size / np.array(t) for peer, t in times.items()}
        row: dict[str, object] = {"step": name}
        for peer, rate in rates.items():
            row[f"{peer}_images_per_second"] = round(float(np.median(rate)), 2)
            row[f"{peer}_range"] = f"{rate.min():.2f} to {rate.max():.2f}"
        row["ratio"] = round(float(np.median(rates["vtl"]) / np.median(rates["pytorch"])), 2)
        rows.append(row | machine(options.batch_size))
        print(f"{name:<42} " + "  ".join(f"{k} {v}" for k, v in row.items() if k != "step"))
        grid.write_csv(Path(__file__).with_suffix(".csv"), rows)


def machine(batch_size: int) -> dict[str, object]:
    """What the rates depend on besides the code."""
    return {
        "batch_size": batch_size,
        "image_size": TORCHVISION.crop_size,
        "precision": "float32",
        "processor": platform.machine() + " " + jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "torch": torch.__version__,
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
    }


if __name__ == "__main__":
    main()
