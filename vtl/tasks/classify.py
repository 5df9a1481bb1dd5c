"""Pictures with one label each -> trained network: pretrains the demo's."""

import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from vtl.data import glyphs
from vtl.errors import UserError, check_choice
from vtl.evaluation import evaluate
from vtl.records import RunDirectory, say
from vtl.training import loop, losses, optim, steps
from vtl.training.checkpoint import Checkpoints
from vtl.training.state import (
    TrainState,
    by_batch,
    check_batch_size,
    make_mesh,
    new_state,
)
from vtl.weights import network, sources
from vtl.weights.preprocessing import TORCHVISION

HELD_OUT_SEED = 2**31
"""Of the pictures that are scored; those trained on have the config's."""


def run(config: ConfigDict, workdir: Path) -> None:
    """Train from scratch as `config` says, one pass over the pictures; a second call goes on.

    Raises:
        UserError: options or `workdir` are not as they should be.
    """
    check_choice("saved_dtype", config.saved_dtype, ("float16", "float32"))
    check_choice("model.dtype", config.model.dtype, network.DTYPES)
    least = {"num_images": 1, "num_held_out": 1, "epoch_size": 1, "log_every_steps": 1}
    for option, value in (least | {"image_size": 16, "seed": 0}).items():
        if config[option] < value:
            raise UserError(f"{option}={config[option]}: the least possible is {value}")
    if config.seed >= HELD_OUT_SEED:
        raise UserError(f"seed={config.seed}: it must be below {HELD_OUT_SEED}")
    run_directory = RunDirectory(workdir, config)
    if run_directory.is_finished:
        accuracy = run_directory.read_results()["top1"]
        say(
            f"{workdir} is finished, with {accuracy:.2%} of the held-out pictures named right; "
            "choose another --workdir to run again"
        )
        return
    started = time.perf_counter()
    mesh = make_mesh()
    check_batch_size("batch_size", config.batch_size, mesh)
    classes = glyphs.CLASSES
    preprocessing = TORCHVISION.override(resize="squash", image_size=config.image_size)
    architecture = network.architecture_for(
        None, depth=config.model.depth, width=config.model.width, num_classes=len(classes)
    )
    model = network.make_model(architecture, config.model.dtype)
    num_steps = loop.count_steps(1.0, config.num_images, config.batch_size)
    schedule = optim.make_schedule(config.optim, num_steps)
    multipliers = optim.resolve_rules(config.optim.rules, network.shapes_of(model)["params"])
    optimizer = optim.make_optimizer(config.optim, schedule, multipliers)
    train_step = steps.make_train_step(
        model,
        optimizer,
        multipliers,
        batch_norm="batch",
        preprocessing=preprocessing,
        augmentation="none",
        seed=config.seed,
        mesh=mesh,
        objective=losses.SOFTMAX,
    )
    eval_step = steps.make_eval_step(model, preprocessing, mesh, jax.nn.softmax)
    pictures = glyphs.Glyphs(config.num_images, config.image_size, config.seed)
    labels = np.eye(len(classes), dtype=np.uint8)[pictures.labels]
    held_out = glyphs.Glyphs(config.num_held_out, config.image_size, HELD_OUT_SEED)
    held_out_images = held_out[np.arange(len(held_out))]

    def top1(state: TrainState) -> dict[str, float]:
        scores, _ = evaluate.predict(
            eval_step,
            state.variables,
            held_out_images,
            batch_size=config.batch_size,
            sharding=by_batch(mesh),
        )
        return {"top1": float(np.mean(scores.argmax(axis=1) == held_out.labels))}

    run_directory.begin()
    checkpoints = Checkpoints(workdir / "checkpoints", best_by=None)

    def first_state() -> TrainState:
        return new_state(network.initialise(model, config.seed), optimizer)

    train_state, resumed_from = loop.start(
        jax.jit(first_state),
        jax.eval_shape(first_state),
        num_steps=num_steps,
        mesh=mesh,
        run_directory=run_directory,
        checkpoints=checkpoints,
    )
    train_state = loop.run(
        train_state,
        train_step,
        loop.TrainingSet(pictures, labels, np.ones_like(labels)),
        num_steps=num_steps,
        batch_size=config.batch_size,
        log_every_steps=config.log_every_steps,
        seed=config.seed,
        schedule=schedule,
        mesh=mesh,
        run_directory=run_directory,
        checkpoints=checkpoints,
        evaluate=top1,
        epoch_size=config.epoch_size,
    )
    checkpoints.close()
    sources.save(
        workdir / "model.safetensors",
        train_state.variables,
        architecture,
        preprocessing,
        classes,
        multi_label=False,
        dtype=config.saved_dtype,
    )
    run_directory.write_results(
        {
            "task": config.task,
            "variant": config.variant,
            "status": "finished",
            "classes": list(classes),
            "top1": run_directory.last_metric("top1"),
            "num_images": config.num_images,
            "resumed_from": resumed_from,
            "images_per_second": run_directory.last_metric("images_per_second"),
            "seconds": {"total": time.perf_counter() - started},
            "seed": config.seed,
            "weights": None,
            "data": {"name": "glyphs", "version": glyphs.VERSION},
        }
    )
    say(f"{run_directory.last_metric('top1'):.2%} of {len(held_out)} held-out pictures named right")
