"""One of many processes that extract features and train together: seconds a step, as JSON.

    python -m experiments.speed.parts.shared_steps DEPTH BATCH_SIZE SIDE STEPS OUT.json \
        --coordinator=127.0.0.1:9999 --num_processes=2 --process_id=0

The network is a ResNet of that depth with random weights; everything trains, with BatchNorm frozen.
The first process writes seconds a step, those of all processors together, and the bytes that the
compiled training step all-reduces. experiments/speed/many_processes.py runs this.
"""

import argparse
import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from configs import finetune as finetune_config
from experiments.speed import bench
from vtl import places, processes
from vtl.data import batches
from vtl.models.resnet import ResNet
from vtl.preprocessing import TORCHVISION
from vtl.training import optim, steps
from vtl.training.state import by_batch, make_mesh, new_state, replicate

_ALL_REDUCE = re.compile(r"= (.*) all-reduce(?:-start)?\(")
_ARRAY = re.compile(r"f32\[([\d,]*)\]")


def main() -> None:
    """Join the others, compile and warm up, then time the steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("depth", "batch_size", "side", "steps"):
        parser.add_argument(name, type=int)
    parser.add_argument("target", type=Path)
    places.add_arguments(parser)
    options = parser.parse_args()
    bench.as_in_training()
    processes.join(vars(options))
    processes.meet()
    setting = bench.Setting(options.batch_size, options.side)
    extract, train, all_reduced = compiled(options.depth, setting)
    found: dict[str, object] = {"all_reduced": all_reduced}
    for name, step in (("extraction", extract), ("training", train)):
        seconds_of(step, 1)
        found[name] = seconds_of(step, options.steps)
    if processes.is_first():
        options.target.write_text(json.dumps(found))
    processes.finish()


def compiled(
    depth: int, setting: bench.Setting
) -> tuple[Callable[[], None], Callable[[], None], int]:
    """A step of extraction, one of training, and the bytes that this one all-reduces."""
    mesh, model = make_mesh(), ResNet(bench.NUM_CLASSES, depth)
    preprocessing = TORCHVISION.override(image_size=setting.image_size)
    init = jax.jit(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), norms_by_batch=())
    )
    variables = jax.tree.map(np.asarray, init())
    multipliers = optim.resolve_rules(((".*", 1.0),), variables["params"])
    optimizer = optim.make_optimizer(
        finetune_config.get_config().optim, lambda step: 1e-3, multipliers
    )
    train_step = steps.make_train_step(
        model,
        optimizer,
        multipliers,
        batch_norm="frozen",
        preprocessing=preprocessing,
        augmentation="none",
        seed=0,
        mesh=mesh,
    )
    feature_step = steps.make_feature_step(model, preprocessing, layer="layer4", grid=1, mesh=mesh)
    rows = np.arange(setting.batch_size)
    arrays = {"images": setting.images, "labels": setting.labels}
    arrays["label_mask"] = np.ones_like(setting.labels)
    batch = {name: batches.place(array, rows, by_batch(mesh)) for name, array in arrays.items()}
    replicated = replicate(variables, mesh)
    state = replicate(jax.tree.map(np.asarray, new_state(variables, optimizer)), mesh)
    features = jax.jit(feature_step).lower(replicated, batch["images"]).compile()
    program = jax.jit(train_step, donate_argnums=0).lower(state, batch).compile()

    def extract() -> None:
        jax.block_until_ready(features(replicated, batch["images"]))

    def train() -> None:
        nonlocal state
        state, metrics = program(state, batch)
        jax.block_until_ready((state, metrics))

    return extract, train, num_bytes(program.as_text())


def num_bytes(program: str | None) -> int:
    """The bytes that the all-reduces of a compiled program have as their results, all float32."""
    arrays = (_ARRAY.findall(result) for result in _ALL_REDUCE.findall(program or ""))
    return 4 * sum(math.prod(map(int, filter(None, a.split(",")))) for its in arrays for a in its)


def seconds_of(step: Callable[[], None], count: int) -> dict[str, float]:
    """A step's seconds by the clock, and those of the processors of all processes together."""
    processes.barrier()
    wall, here = time.perf_counter(), time.process_time()
    for _ in range(count):
        step()
    wall, here = time.perf_counter() - wall, time.process_time() - here
    return {"wall": wall / count, "processors": sum(processes.gather(here)) / count}


if __name__ == "__main__":
    main()
