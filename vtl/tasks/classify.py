"""Pictures with one label each -> trained network: pretrains the demo's network."""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vtl import knobs
from vtl.console import say
from vtl.data import glyphs
from vtl.errors import UserError, check_choice
from vtl.evaluation import evaluate, outcome
from vtl.preprocessing import TORCHVISION
from vtl.run_directory import RunDirectory
from vtl.training import loop, losses, optim, steps
from vtl.training.checkpoint import Checkpoints
from vtl.training.state import (
    TrainState,
    by_batch,
    check_batch_sizes,
    make_mesh,
    new_state,
)
from vtl.weights import network

HELD_OUT_SEED = 2**31
"""The seed of the held-out pictures; the training pictures have the config's seed."""


def run(config: ConfigDict, workdir: Path) -> None:
    """Train from scratch, one pass over the pictures; a second call resumes.

    Raises:
        UserError: an option is invalid, or `workdir` holds something else.
    """
    _check_options(config)
    run_directory = RunDirectory(workdir, config)
    content = {"data": {"pictures": f"glyphs {glyphs.VERSION}"}}
    if outcome.was_finished(run_directory, lambda: content, _format_outcome):
        return
    started = time.perf_counter()
    mesh = make_mesh()
    check_batch_sizes({"batch_size": config.batch_size}, mesh)
    preprocessing = TORCHVISION.override(resize="squash", image_size=config.image_size)
    net = network.untrained(config.model, preprocessing, len(glyphs.CLASSES))
    rules = optim.spelled_out(config.optim.rules, net.architecture.last_stage)
    multipliers = optim.resolve_rules(rules, network.shapes_of(net.model)["params"])
    plan = loop.make_plan(
        config,
        num_images=config.num_images,
        num_epochs=1.0,
        mesh=mesh,
        epoch_size=config.epoch_size,
    )
    optimizer = optim.make_optimizer(config.optim, plan.learning_rate, multipliers)
    train_step = steps.make_train_step(
        net.model,
        optimizer,
        multipliers,
        batch_norm="batch",
        preprocessing=preprocessing,
        augmentation="none",
        seed=config.seed,
        mesh=mesh,
        objective=losses.SOFTMAX,
    )
    eval_step = steps.make_eval_step(net.model, preprocessing, mesh)
    pictures = glyphs.Glyphs(config.num_images, config.image_size, config.seed)
    labels = np.eye(len(glyphs.CLASSES), dtype=np.uint8)[pictures.labels]
    held_out = glyphs.Glyphs(config.num_held_out, config.image_size, HELD_OUT_SEED)
    held_out_images = held_out[np.arange(len(held_out))]

    def top1(state: TrainState) -> dict[str, float]:
        (logits,) = evaluate.predict(
            eval_step,
            state.variables,
            held_out_images,
            batch_size=config.batch_size,
            sharding=by_batch(mesh),
        )
        return {"top1": float(np.mean(logits.argmax(axis=1) == held_out.labels))}

    def first_state() -> TrainState:
        return new_state(network.initialise(net.model, config.seed), optimizer)

    run_directory.begin(content)
    checkpoints = Checkpoints(workdir / "checkpoints", best_by=None, run=run_directory.run_id)
    shapes = jax.eval_shape(first_state)
    train_state, resumed_from = loop.start(
        jax.jit(first_state), shapes, plan, run_directory, checkpoints
    )
    training_set = loop.TrainingSet(pictures, labels, np.ones_like(labels))
    train_state = loop.run(
        train_state, train_step, training_set, plan, run_directory, checkpoints, top1
    )
    checkpoints.close()
    network.save(
        workdir / "model.safetensors",
        train_state.variables,
        net,
        glyphs.CLASSES,
        multi_label=False,
        dtype=config.saved_dtype,
    )
    run_directory.write_results(
        {
            "classes": list(glyphs.CLASSES),
            "top1": run_directory.last_metric("top1"),
            "num_images": config.num_images,
            "resumed_from": resumed_from,
            "images_per_second": run_directory.last_metric("images_per_second"),
            "seconds": {"total": time.perf_counter() - started},
            "weights": None,
            "data": {"name": "glyphs", "version": glyphs.VERSION},
        }
    )
    say(_format_outcome(run_directory, run_directory.read_results()))


def _check_options(config: ConfigDict) -> None:
    knobs.check(config)
    check_choice("saved_dtype", config.saved_dtype, ("float16", "float32"))
    if config.image_size < 16:
        raise UserError(f"image_size must be at least 16, got {config.image_size}")
    if config.seed >= HELD_OUT_SEED:
        raise UserError(f"seed must be below {HELD_OUT_SEED}, got {config.seed}")


def _format_outcome(run_directory: RunDirectory, results: dict[str, Any]) -> str:
    del run_directory
    return f"{results['top1']:.2%} of the held-out pictures named right"
