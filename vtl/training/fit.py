"""The one fit for arrays that are in memory whole: features or small images, and their labels."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from vtl.data import batches
from vtl.models import activations
from vtl.training import losses

_UNROLL = 4
"""Steps of SGD in one turn of the loop, whose own cost shows beside so small a step."""

_SCORED_AT_ONCE = 500
"""Images of one piece of a split that is scored: more take memory and no less time."""

Params = Any
"""A pytree of arrays, as Flax has it; a leading axis where there are several networks."""


class Linear(NamedTuple):
    """A linear head: kernel [D, C], bias [C]; a leading axis where there are several."""

    kernel: jax.Array
    bias: jax.Array


@functools.partial(jax.jit, static_argnames=("max_iterations",))
def logistic_regression(
    features: jax.Array,
    labels: jax.Array,
    known: jax.Array,
    l2: float | jax.Array,
    *,
    max_iterations: int = 1000,
    tolerance: float = 3e-4,
) -> Linear:
    """One L2-regularised logistic regression a class, by L-BFGS.

    features [N, D]; labels, known [N, C] in {0, 1}; l2 a number or [C]. Minimises the mean
    cross-entropy over the known labels plus l2 / 2 times the squared norm of the weights; the bias
    is free. scikit-learn's `C` is 1 / (N l2). A class that no known label, or every one, is of gets
    a bias alone. Stops where the objective is within a fraction of `tolerance` of its minimum, by
    the bound |gradient|^2 / (2 curvature): that of the weights is l2, that of the bias is about
    p (1 - p) at a share p of positives. The bound is several times too wide, and the fit ends as
    well where float32 shows no more progress.
    """
    # The bias is free, so centring changes the path to the minimum (a shorter one) and not the
    # minimum.
    mean = jnp.mean(features.astype(jnp.float32), axis=0)
    features = features.astype(jnp.float32) - mean
    solver = optax.lbfgs()
    # Whatever the run's precision: TF32 rounds by up to 5e-4, which is more than the tolerance.
    product = functools.partial(jnp.matmul, precision="highest")

    def fit_class(labels: jax.Array, known: jax.Array, l2: jax.Array) -> tuple:
        def objective(head: Linear) -> jax.Array:
            logits = product(features, head.kernel) + head.bias
            loss = losses.sigmoid_bce_mean(logits, labels, known)
            return loss + 0.5 * l2 * jnp.sum(head.kernel**2)

        value_and_grad = optax.value_and_grad_from_state(objective)
        # Without a positive, or without a negative, there is no minimum: such a class stays where
        # it starts, at its log-odds with half an image added to either.
        num_positives, num_known = jnp.sum(labels * known), jnp.sum(known)
        has_minimum = (num_positives > 0) & (num_positives < num_known)
        positives = (num_positives + 0.5) / (num_known + 1)
        bias_curvature = positives * (1 - positives)
        start = Linear(jnp.zeros(features.shape[1]), jax.scipy.special.logit(positives))

        def is_unfinished(carry: tuple) -> jax.Array:
            _, _, iteration, gap, last, value = carry
            is_moving = value < last * (1 - jnp.finfo(jnp.float32).eps)
            return (iteration < max_iterations) & (gap > tolerance) & is_moving

        def iterate(carry: tuple) -> tuple:
            head, state, iteration, _, _, last = carry
            value, grad = value_and_grad(head, state=state)
            updates, state = solver.update(
                grad, state, head, value=value, grad=grad, value_fn=objective
            )
            bound = jnp.sum(grad.kernel**2) / l2 + grad.bias**2 / bias_curvature
            gap = bound / (2 * value)
            return optax.apply_updates(head, updates), state, iteration + 1, gap, last, value

        gap = jnp.where(has_minimum, jnp.inf, 0.0)
        carry = (start, solver.init(start), 0, gap, jnp.inf, jnp.finfo(jnp.float32).max)
        head = jax.lax.while_loop(is_unfinished, iterate, carry)[0]
        return head.kernel, head.bias - product(mean, head.kernel)

    l2 = jnp.broadcast_to(jnp.asarray(l2, jnp.float32), labels.shape[1:])
    fit = jax.vmap(fit_class, in_axes=(1, 1, 0), out_axes=(1, 0))
    kernel, bias = fit(labels.astype(jnp.float32), known.astype(jnp.float32), l2)
    return Linear(kernel, bias)


@functools.partial(jax.jit, static_argnames=("momentum",))
def sgd(
    features: jax.Array,
    labels: jax.Array,
    known: jax.Array,
    orders: jax.Array,
    start: Linear,
    learning_rates: jax.Array,
    weight_decays: jax.Array,
    *,
    momentum: float = 0.0,
) -> tuple[Linear, jax.Array]:
    """Several linear heads by SGD at once, all epochs in one program: heads, losses [G, T].

    features [N, D]; labels, known [N, C]; for each of the G heads the rows of its T batches, orders
    [G, T, B], a `start`, a learning rate [G] and a weight decay [G]. The loss of a step is the mean
    cross-entropy over the known labels of its batch, before the update.
    """
    features = features.astype(jnp.float32)
    labels, known = labels.astype(jnp.float32), known.astype(jnp.float32)

    def fit_one(
        order: jax.Array, head: Linear, rate: jax.Array, decay: jax.Array
    ) -> tuple[Linear, jax.Array]:
        optimizer = optax.chain(
            optax.add_decayed_weights(decay),
            optax.trace(momentum) if momentum else optax.identity(),
            optax.scale_by_learning_rate(rate),
        )

        def step(carry: tuple, rows: jax.Array) -> tuple:
            head, state = carry

            def loss_fn(head: Linear) -> jax.Array:
                logits = jnp.einsum("cd,bd->cb", head.kernel, features[rows]).T + head.bias
                return losses.sigmoid_bce_mean(logits, labels[rows], known[rows])

            loss, grads = jax.value_and_grad(loss_fn)(head)
            updates, state = optimizer.update(grads, state, head)
            return (optax.apply_updates(head, updates), state), loss

        # The kernel is [C, D] meanwhile: XLA's CPU backend takes half the time for its gradient.
        head = Linear(head.kernel.T, head.bias)
        carry = (head, optimizer.init(head))
        by_step: jax.Array
        (head, _), by_step = jax.lax.scan(step, carry, order, unroll=_UNROLL)
        return Linear(head.kernel.T, head.bias), by_step

    return jax.vmap(fit_one)(orders, start, learning_rates, weight_decays)


def dense(
    features: np.ndarray,
    labels: np.ndarray,
    known: np.ndarray,
    *,
    learning_rate: float = 0.1,
    num_epochs: float = 20.0,
    batch_size: int = 32,
    seed: int = 0,
) -> tuple[Linear, jax.Array]:
    """One Dense(C, sigmoid) as the lab trains it: the head and the loss of each step, [T].

    features [N, D]; labels, known [N, C]. Its start and its order are those of `seeded`.
    """
    start, order = seeded(
        features.shape, labels.shape[1], num_epochs=num_epochs, batch_size=batch_size, seed=seed
    )
    rate, decay = np.array([[learning_rate], [0.0]], np.float32)
    head, by_step = sgd(
        features, labels, known, order[None], jax.tree.map(lambda x: x[None], start), rate, decay
    )
    return Linear(head.kernel[0], head.bias[0]), by_step[0]


def seeded(
    shape: tuple[int, ...], num_classes: int, *, num_epochs: float, batch_size: int, seed: int
) -> tuple[Linear, np.ndarray]:
    """A head as Keras starts a Dense, and the rows [T, batch_size] of every batch.

    For features of `shape` [N, D]. A pass over the rows is a new permutation.
    """
    num_images, num_features = shape
    kernel = jax.nn.initializers.glorot_uniform()(jax.random.key(seed), (num_features, num_classes))
    order = batches.train_order(
        max(1, round(num_epochs * num_images / batch_size)),
        num_images=num_images,
        batch_size=batch_size,
        seed=seed,
    )
    return Linear(kernel, jnp.zeros(num_classes)), order


class Score(NamedTuple):
    """A network on one split, and which of its hidden units pass no gradient on.

    Attributes:
        loss: mean cross-entropy in nats.
        saturated: by layer of sigmoid or tanh, the share of outputs that are saturated.
        dead: by layer of ReLU, the share of units, or channels of a convolution, that are zero for
            every image of the split.
    """

    loss: jax.Array
    accuracy: jax.Array
    saturated: dict[str, jax.Array]
    dead: dict[str, jax.Array]


class Curves(NamedTuple):
    """What was measured of G networks at M moments: [G, M] each.

    Attributes:
        train_loss: the mean over the steps since the moment before.
        gradient_norms: by layer, the Euclidean norm of a step's gradient; a mean over those steps.
        held_out: the scores on what is held out, at the moment.
    """

    train_loss: jax.Array
    gradient_norms: dict[str, jax.Array]
    held_out: Score


@functools.partial(jax.jit, static_argnames=("model",))
def softmax_sgd(
    model: nn.Module,
    train: tuple[jax.Array, jax.Array],
    held_out: tuple[jax.Array, jax.Array],
    orders: jax.Array,
    start: Params,
    learning_rates: jax.Array,
) -> tuple[Params, Curves]:
    """Several networks by plain SGD at once, all epochs in one program: parameters, curves.

    `model` is of models.mlp or models.lenet; train and held_out are images [N, H, W] uint8 and
    labels [N]. For each of the G networks the rows of its batches, orders [G, M, S, B] with S steps
    between two measurements, a `start` and a learning rate [G]. A step descends the softmax
    cross-entropy, averaged over its batch.
    """
    images, labels = train

    def fit_one(order: jax.Array, params: Params, rate: jax.Array) -> tuple[Params, Curves]:
        def step(params: Params, rows: jax.Array) -> tuple[Params, tuple]:
            def loss_fn(params: Params) -> jax.Array:
                logits, _ = model.apply({"params": params}, _unit(images[rows]))
                return jnp.mean(_cross_entropy(logits, labels[rows]))

            loss, grads = jax.value_and_grad(loss_fn)(params)
            norms = {name: optax.tree.norm(grads[name]) for name in grads}
            return jax.tree.map(lambda p, g: p - rate * g, params, grads), (loss, norms)

        def stretch(params: Params, rows: jax.Array) -> tuple[Params, Curves]:
            params, by_step = jax.lax.scan(step, params, rows)
            loss, norms = jax.tree.map(jnp.mean, by_step)
            return params, Curves(loss, norms, _score(model, params, *held_out))

        return jax.lax.scan(stretch, params, order)

    return jax.vmap(fit_one)(orders, start, learning_rates)


@functools.partial(jax.jit, static_argnames=("model",))
def score(model: nn.Module, params: Params, images: jax.Array, labels: jax.Array) -> Score:
    """G networks on images [N, H, W] uint8 and labels [N]: [G] each."""
    return jax.vmap(lambda params: _score(model, params, images, labels))(params)


def _score(model: nn.Module, params: Params, images: jax.Array, labels: jax.Array) -> Score:
    kinds = {name: activations.IDLE.get(a) for name, a in model.hidden_activations.items()}
    pieces = list(batches.eval_indices(len(labels), min(_SCORED_AT_ONCE, len(labels))))
    rows = np.stack([indices for indices, _ in pieces])
    is_real = np.stack([np.arange(rows.shape[1]) < count for _, count in pieces])

    def score_piece(piece: tuple[jax.Array, jax.Array]) -> tuple:
        rows, is_real = piece
        logits, hidden = model.apply({"params": params}, _unit(images[rows]))
        losses = _cross_entropy(logits, labels[rows])
        hits = jnp.argmax(logits, axis=1) == labels[rows]
        saturated, largest = {}, {}
        for name, outputs in hidden.items():
            if kinds[name] == "saturated":
                is_saturated = activations.is_saturated(model.hidden_activations[name], outputs)
                saturated[name] = jnp.mean(is_saturated, axis=range(1, outputs.ndim))
            elif kinds[name] == "dead":
                largest[name] = jnp.max(outputs, axis=range(outputs.ndim - 1))
        sums = jax.tree.map(lambda x: jnp.sum(x * is_real), (losses, hits, saturated))
        return sums, largest

    sums, largest = jax.lax.map(score_piece, (rows, is_real))
    loss, accuracy, saturated = jax.tree.map(lambda x: jnp.sum(x) / len(labels), sums)
    dead = {name: jnp.mean(jnp.max(x, axis=0) <= 0) for name, x in largest.items()}
    return Score(loss, accuracy, saturated, dead)


def _unit(images: jax.Array) -> jax.Array:
    """uint8 -> float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels.astype(jnp.int32))


def start(model: nn.Module, image_shape: tuple[int, int], seeds: Sequence[int]) -> Params:
    """The parameters that `model` starts from by each of the seeds; images are of `image_shape`."""
    keys = jax.vmap(jax.random.key)(np.array(seeds))
    no_images = jnp.zeros((1, *image_shape))
    return jax.vmap(lambda key: model.init(key, no_images)["params"])(keys)
