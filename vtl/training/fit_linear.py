"""Linear heads on features that fit in memory: logistic regression and SGD."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vtl.data import batches
from vtl.training import losses

_UNROLL = 4
"""Steps of SGD per iteration of the loop: a step is so small that the loop's own cost shows."""


class Linear(NamedTuple):
    """A linear head: kernel [D, C], bias [C]; several heads have a leading axis."""

    kernel: jax.Array
    bias: jax.Array


class Rotated(NamedTuple):
    """Features along their principal axes: mean [D], axes [D, R], scores [N, R], variances [R].

    The axes are orthonormal, and the rows less their mean lie in what they span.
    """

    mean: jax.Array
    axes: jax.Array
    scores: jax.Array
    variances: jax.Array


# Highest, whatever the run's precision: TF32 rounds by up to 5e-4, more than the tolerance.
_product = functools.partial(jnp.matmul, precision="highest")


@jax.jit
def rotate(features: jax.Array) -> Rotated:
    """Features [N, D] along their min(N, D) principal axes."""
    features = features.astype(jnp.float32)
    mean = jnp.mean(features, axis=0)
    mean += jnp.mean(features - mean, axis=0)  # what rounding left of a constant would get a weight
    centred = features - mean
    if len(features) < features.shape[1]:
        basis, coordinates = jnp.linalg.qr(centred.T)
        _, turn = jnp.linalg.eigh(_product(coordinates, coordinates.T))
        axes = _product(basis, turn)
    else:
        _, axes = jnp.linalg.eigh(_product(centred.T, centred))
    scores = _product(centred, axes)
    return Rotated(mean, axes, scores, jnp.mean(scores**2, axis=0))


def logistic_regression(
    features: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    label_mask: np.ndarray | jax.Array,
    l2: float | np.ndarray,
    *,
    max_iterations: int = 1000,
    tolerance: float = 1e-4,
) -> Linear:
    """One L2-regularised logistic regression per class, by L-BFGS.

    features [N, D]; labels [N, C] in {0, 1}; label_mask [N, C] in {0, 1}, or how much each label
    counts; l2 a number or [C]. Minimises the mean cross-entropy over the labels that count plus
    l2 / 2 times the squared norm of the weights; the bias is free. scikit-learn's `C` is
    1 / (N l2). A class with no positive, or no negative, gets only a bias.

    The fit stops when the objective is within a fraction `tolerance` of its minimum, by the bound
    |gradient|^2 / (2 curvature). The curvature of the weights is at least l2; that of the bias is
    about p (1 - p) if p is the share of positives. The fit also stops when float32 shows no more
    progress.
    """
    options = {"max_iterations": max_iterations, "tolerance": tolerance}
    return fit_rotated(rotate(features), labels, label_mask, l2, **options)


@functools.partial(jax.jit, static_argnames=("max_iterations",))
def fit_rotated(
    features: Rotated,
    labels: jax.Array,
    label_mask: jax.Array,
    l2: float | jax.Array,
    *,
    max_iterations: int = 1000,
    tolerance: float = 1e-4,
) -> Linear:
    """`logistic_regression`, of features that are rotated once for several fits.

    Along the principal axes the loss's curvature is about p (1 - p) times the variance, and the
    penalty adds l2 to it: steps of one over their root make every direction alike, so that tens of
    iterations do for what took hundreds.
    """

    def fit_class(labels: jax.Array, label_mask: jax.Array, l2: jax.Array) -> tuple[Any, ...]:
        # A class with no positive, or no negative, has no minimum. It stays where it starts: at its
        # log-odds, with half an image added to each side.
        num_positives, num_counted = jnp.sum(labels * label_mask), jnp.sum(label_mask)
        has_minimum = (num_positives > 0) & (num_positives < num_counted)
        positive_share = (num_positives + 0.5) / (num_counted + 1)
        bias_curvature = positive_share * (1 - positive_share)
        unit = jax.lax.rsqrt(bias_curvature * features.variances + l2)

        def objective(head: Linear) -> jax.Array:
            weights = head.kernel * unit
            logits = _product(features.scores, weights) + head.bias
            loss = losses.sigmoid_bce_mean(logits, labels, label_mask)
            return loss + 0.5 * l2 * jnp.sum(weights**2)

        def gap_of(grad: Linear) -> jax.Array:
            return jnp.sum((grad.kernel / unit) ** 2) / l2 + grad.bias**2 / bias_curvature

        start = Linear(jnp.zeros_like(unit), jax.scipy.special.logit(positive_share))
        gap = jnp.where(has_minimum, jnp.inf, 0.0)
        head = _minimised(objective, start, gap_of, gap, max_iterations, tolerance)
        kernel = _product(features.axes, head.kernel * unit)
        return kernel, head.bias - _product(features.mean, kernel)

    l2 = jnp.broadcast_to(jnp.asarray(l2, jnp.float32), labels.shape[1:])
    fit = jax.vmap(fit_class, in_axes=(1, 1, 0), out_axes=(1, 0))
    kernel, bias = fit(labels.astype(jnp.float32), label_mask.astype(jnp.float32), l2)
    return Linear(kernel, bias)


def _minimised(
    objective: Callable[[Linear], jax.Array],
    start: Linear,
    gap_of: Callable[[Linear], jax.Array],
    gap: jax.Array | float,
    max_iterations: int,
    tolerance: float,
) -> Linear:
    """The head of least objective, by L-BFGS; `gap_of` its gradient bounds twice what is above."""
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def is_unfinished(carry: tuple[Any, ...]) -> jax.Array:
        _, _, iteration, gap, previous, value = carry
        is_moving = value < previous * (1 - jnp.finfo(jnp.float32).eps)
        return (iteration < max_iterations) & (gap > tolerance) & is_moving

    def iterate(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        head, state, iteration, _, _, previous = carry
        value, grad = value_and_grad(head, state=state)
        updates, state = solver.update(
            grad, state, head, value=value, grad=grad, value_fn=objective
        )
        gap = gap_of(grad) / (2 * value)
        head = optax.apply_updates(head, updates)
        return head, state, iteration + 1, gap, previous, value

    carry = (start, solver.init(start), 0, gap, jnp.inf, jnp.finfo(jnp.float32).max)
    return jax.lax.while_loop(is_unfinished, iterate, carry)[0]


@functools.partial(jax.jit, static_argnames=("max_iterations",))
def fit_softmax(
    features: Rotated,
    labels: jax.Array,
    counts: jax.Array,
    l2: float | jax.Array,
    *,
    max_iterations: int = 1000,
    tolerance: float = 1e-4,
) -> Linear:
    """One L2-regularised softmax regression of images with one label each, by L-BFGS.

    labels [N, C], each row with a single 1; counts [N] is how much each image counts, perhaps 0.
    Minimises the mean cross-entropy over what counts plus l2 / 2 times the squared norm of the
    weights, as `fit_rotated` does for each class alone, and stops as it does.
    """
    labels, counts = labels.astype(jnp.float32), counts.astype(jnp.float32)
    share = (counts @ labels + 0.5) / (jnp.sum(counts) + 0.5 * labels.shape[1])
    curvatures = share * (1 - share)
    unit = jax.lax.rsqrt(features.variances[:, None] * curvatures + l2)  # [R, C]

    def objective(head: Linear) -> jax.Array:
        weights = head.kernel * unit
        logits = _product(features.scores, weights) + head.bias
        by_image = losses.softmax_cross_entropy(logits, labels)
        return jnp.sum(by_image * counts) / jnp.sum(counts) + 0.5 * l2 * jnp.sum(weights**2)

    def gap_of(grad: Linear) -> jax.Array:
        return jnp.sum((grad.kernel / unit) ** 2) / l2 + jnp.sum(grad.bias**2 / curvatures)

    start = Linear(jnp.zeros_like(unit), jnp.log(share))
    head = _minimised(objective, start, gap_of, jnp.inf, max_iterations, tolerance)
    kernel = _product(features.axes, head.kernel * unit)
    return Linear(kernel, head.bias - _product(features.mean, kernel))


@functools.partial(jax.jit, static_argnames=("momentum", "loss"))
def sgd(
    features: jax.Array,
    labels: jax.Array,
    label_mask: jax.Array,
    orders: jax.Array,
    start: Linear,
    learning_rates: jax.Array,
    weight_decays: jax.Array,
    *,
    momentum: float = 0.0,
    loss: losses.Loss = losses.sigmoid_bce_mean,
) -> tuple[Linear, jax.Array]:
    """Train G linear heads at once by SGD, all epochs in one program: heads, losses [G, T].

    features [N, D]; labels, label_mask [N, C]. Each of the G heads has its own `start`, the rows of
    its T batches in orders [G, T, B], a learning rate [G] and a weight decay [G]. A step's `loss`
    is over its batch's labels that the mask counts, before the update.
    """
    features = features.astype(jnp.float32)
    labels, label_mask = labels.astype(jnp.float32), label_mask.astype(jnp.float32)

    def fit_one(
        order: jax.Array, head: Linear, rate: jax.Array, decay: jax.Array
    ) -> tuple[Linear, jax.Array]:
        optimizer = optax.chain(
            optax.add_decayed_weights(decay),
            optax.trace(momentum) if momentum else optax.identity(),
            optax.scale_by_learning_rate(rate),
        )

        def step(carry: tuple[Any, ...], rows: jax.Array) -> tuple[Any, ...]:
            head, state = carry

            def loss_fn(head: Linear) -> jax.Array:
                logits = jnp.einsum("cd,bd->cb", head.kernel, features[rows]).T + head.bias
                return loss(logits, labels[rows], label_mask[rows])

            value, grads = jax.value_and_grad(loss_fn)(head)
            updates, state = optimizer.update(grads, state, head)
            return (optax.apply_updates(head, updates), state), value

        # The kernel is [C, D] here: XLA's CPU backend then takes half the time for its gradient.
        head = Linear(head.kernel.T, head.bias)
        carry = (head, optimizer.init(head))
        by_step: jax.Array
        (head, _), by_step = jax.lax.scan(step, carry, order, unroll=_UNROLL)
        return Linear(head.kernel.T, head.bias), by_step

    return jax.vmap(fit_one)(orders, start, learning_rates, weight_decays)


def dense(
    features: np.ndarray,
    labels: np.ndarray,
    label_mask: np.ndarray,
    *,
    learning_rate: float = 0.1,
    num_epochs: float = 20.0,
    batch_size: int = 32,
    seed: int = 0,
) -> tuple[Linear, jax.Array]:
    """One Dense(C, sigmoid) as the lab trains it: the head and the loss of each step, [T].

    features [N, D]; labels, label_mask [N, C]. `seeded` draws the start and the batches.
    """
    start, order = seeded(
        features.shape, labels.shape[1], num_epochs=num_epochs, batch_size=batch_size, seed=seed
    )
    rate, decay = np.array([[learning_rate], [0.0]], np.float32)
    head, by_step = sgd(
        features,
        labels,
        label_mask,
        order[None],
        jax.tree.map(lambda x: x[None], start),
        rate,
        decay,
    )
    return Linear(head.kernel[0], head.bias[0]), by_step[0]


def seeded(
    shape: tuple[int, ...], num_classes: int, *, num_epochs: float, batch_size: int, seed: int
) -> tuple[Linear, np.ndarray]:
    """A head initialised as Keras does a Dense, and the rows [T, batch_size] of every batch.

    `shape` [N, D] is that of the features. Each pass over the rows is a new permutation.
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
