"""The pure training and evaluation steps, jitted over a mesh."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from vtl.models import HEAD, head
from vtl.models.head import Seen
from vtl.preprocessing import Preprocessing, normalise
from vtl.training import augment, losses, optim, state
from vtl.training.state import TrainState

Batch = dict[str, jax.Array]
"""images [B, H, W, 3] uint8, labels [B, C] and label_mask [B, C] in {0, 1}."""

EvalStep = Callable[[Any, jax.Array], tuple[jax.Array, ...]]
"""(variables, images [B, H, W, 3] uint8) -> arrays with a row per image."""

COUNTED = "num_counted"
"""How many labels counted in a step. Where none did, its loss and accuracy of 0 say nothing."""

Outputs = TypeVar("Outputs")

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    multipliers: optim.Multipliers,
    *,
    batch_norm: str,
    preprocessing: Preprocessing,
    augmentation: str,
    seed: int,
    mesh: Mesh,
    objective: losses.Objective = losses.SIGMOID,
) -> TrainStep:
    """(state, batch) -> (next state, {loss, the accuracy by its name, COUNTED}).

    The old state's buffers are donated. Augmentation is a function of (seed, step), so a resumed
    run sees the same images as one without a break.
    """
    trainable = optim.trainable_mask(multipliers)
    norms = optim.norms_by_batch(batch_norm, multipliers)

    def train_step(
        train_state: TrainState, batch: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        step_key = jax.random.fold_in(jax.random.key(seed), train_state.step)
        images = augment.augment(
            step_key, batch["images"], kind=augmentation, size=preprocessing.crop_size
        )
        images = normalise(images, preprocessing)
        labels, label_mask = (batch[name].astype(jnp.float32) for name in ("labels", "label_mask"))

        def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            params = optim.freeze_gradients(params, trainable)
            variables = {"params": params, "batch_stats": train_state.batch_stats}
            (logits, _), updated = model.apply(
                variables, images, norms_by_batch=norms, mutable=["batch_stats"]
            )
            loss = objective.loss(logits, labels, label_mask)
            return loss, (logits, updated.get("batch_stats", {}))

        (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            train_state.params
        )
        updates, opt_state = optimizer.update(grads, train_state.opt_state, train_state.params)
        params = optim.apply_updates(train_state.params, updates, trainable)
        accuracy = objective.accuracy(logits, labels, label_mask)
        metrics = {"loss": loss, objective.accuracy_name: accuracy, COUNTED: jnp.sum(label_mask)}
        return TrainState(train_state.step + 1, params, batch_stats, opt_state), metrics

    replicated, by_batch = state.replicated(mesh), state.by_batch(mesh)
    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(replicated, by_batch),
        out_shardings=(replicated, replicated),
    )


def make_feature_step(
    model: nn.Module,
    preprocessing: Preprocessing,
    mesh: Mesh,
    *,
    layer: str,
    grid: int,
    pooling: str = "average",
) -> Callable[[Any, jax.Array], jax.Array]:
    """(variables, images [B, H, W, 3] uint8) -> float32 features [B, grid * grid * D] of a stage.

    Pools the stage's output in each cell of a grid x grid partition, by `pooling` of `models.head`.
    The features are ordered by the cell's row, its column, and the channel. The last stage, a
    `layer` of "", with a grid of 1 gives the features that a head of that pooling sees: 2048 of a
    ResNet-50.
    """

    def feature_step(variables: Any, images: jax.Array) -> jax.Array:
        _, outputs = _evaluate(model, preprocessing, variables, images)
        seen = Seen(outputs[layer]) if layer else outputs["seen"]
        return head.pooled_cells(seen, grid, pooling).reshape(len(images), -1)

    return _by_batch(feature_step, mesh)


def make_map_step(model: nn.Module, preprocessing: Preprocessing, mesh: Mesh) -> EvalStep:
    """(variables, images [B, H, W, 3] uint8) -> each class's evidence [B, h, w, C], float32.

    A map's mean plus its class's bias is the class's logit; see `head.evidence`.
    """

    def map_step(variables: Any, images: jax.Array) -> tuple[jax.Array]:
        _, outputs = _evaluate(model, preprocessing, variables, images)
        maps = head.evidence(
            outputs["seen"],
            variables["params"][HEAD]["kernel"],
            pooling=model.pooling,
            transform=model.transform,
            regions=model.regions,
        )
        return (maps,)

    return _by_batch(map_step, mesh)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evaluate(
    model: nn.Module, preprocessing: Preprocessing, variables: Any, images: jax.Array
) -> tuple[jax.Array, Any]:
    """The model's logits and outputs for the central crop of uint8 images.

    Jitted, so that the steps of a network, which want different outputs, trace it once.
    """
    images = normalise(augment.centre_crop(images, preprocessing.crop_size), preprocessing)
    logits, outputs = model.apply(variables, images, norms_by_batch=())
    return logits, outputs


def make_eval_step(model: nn.Module, preprocessing: Preprocessing, mesh: Mesh) -> EvalStep:
    """(variables, images [B, H, W, 3] uint8) -> (logits [B, C],).

    Logits, not probabilities: a float32 sigmoid is 1 from 17 on, and ties have no order.
    """

    def eval_step(variables: Any, images: jax.Array) -> tuple[jax.Array]:
        return (_evaluate(model, preprocessing, variables, images)[0],)

    return _by_batch(eval_step, mesh)


def make_head_step(model: nn.Module, preprocessing: Preprocessing, mesh: Mesh) -> EvalStep:
    """(variables, images [B, H, W, 3] uint8) -> (photos [B, D], cells [B, R, D]) for the head.

    R is 0 for a head without regions. The cells are float16: there are many of them, and they only
    decide the bias.
    """

    def head_step(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        views = _evaluate(model, preprocessing, variables, images)[1]["views"]
        return views[:, 0], views[:, 1:].astype(jnp.float16)

    return _by_batch(head_step, mesh)


def _by_batch(
    step: Callable[[Any, jax.Array], Outputs], mesh: Mesh
) -> Callable[[Any, jax.Array], Outputs]:
    """Split over the devices of all processes; each of them gets all of the outputs."""
    replicated, by_batch = state.replicated(mesh), state.by_batch(mesh)
    return jax.jit(step, in_shardings=(replicated, by_batch), out_shardings=replicated)
