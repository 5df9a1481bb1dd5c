"""Linear heads on features that fit in memory: logistic regression and SGD."""

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import threadpoolctl

from vtl.data import batches
from vtl.training import losses

_UNROLL = 4
"""Steps of SGD per iteration of the loop: a step is so small that the loop's own cost shows."""

_MOST_STEPS = 200
"""Of Newton's method, and of the conjugate gradients for each."""

_REST = 0.1
"""What a Newton step may leave of the gradient, if the objective were quadratic."""

_LEAST_CURVATURE = 1e-12
"""Of what gradients are divided by, where all probabilities are 0 or 1."""

_LEAST_FALL, _LEAST_SCALE = 1e-4, 1e-4
"""A step is halved until the objective falls by this share of what its slope promises (Armijo)."""


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


def rotate(features: np.ndarray | jax.Array) -> Rotated:
    """Features [N, D] along their min(N, D) principal axes.

    XLA's decompositions on a CPU are those of SciPy's OpenBLAS, whose threads spin while they wait
    for each other: for seconds where others use the cores. So they take one.
    """
    importlib.import_module("scipy.linalg.cython_lapack")  # which XLA would load at the first
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        return jax.block_until_ready(_rotated(features))


@jax.jit
def _rotated(features: jax.Array) -> Rotated:
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
    tolerance: float = 1e-4,
) -> Linear:
    """One L2-regularised logistic regression per class, by Newton's method.

    features [N, D]; labels [N, C] in {0, 1}; label_mask [N, C] in {0, 1}, or how much each label
    counts; l2 a number or [C]. Minimises the mean cross-entropy over the labels that count plus
    l2 / 2 times the squared norm of the weights; the bias is free. scikit-learn's `C` is
    1 / (N l2). A class with no positive, or no negative, gets only a bias.

    The fit stops after a step before which the objective was within a fraction `tolerance` of its
    minimum, by its slope and curvature there. It also stops when float32 shows no more progress.
    """
    return fit_rotated(rotate(features), labels, label_mask, l2, tolerance=tolerance)


@jax.jit
def fit_rotated(
    features: Rotated,
    labels: jax.Array,
    label_mask: jax.Array,
    l2: float | jax.Array,
    *,
    tolerance: float = 1e-4,
) -> Linear:
    """`logistic_regression`, of features that are rotated once for several fits.

    Along a principal axis the loss's curvature is about the mean of p (1 - p) times the variance,
    and the penalty adds l2 to it: with these on the diagonal, a few conjugate gradients make a step
    of Newton's.
    """
    labels, label_mask = labels.astype(jnp.float32), label_mask.astype(jnp.float32)
    num_positives, num_counted = jnp.sum(labels * label_mask, axis=0), jnp.sum(label_mask, axis=0)
    positive_share = (num_positives + 0.5) / (num_counted + 1)
    weights = label_mask / jnp.maximum(num_counted, 1)

    def objective(head: Linear) -> jax.Array:
        logits = _product(features.scores, head.kernel) + head.bias
        loss = jnp.sum(losses.sigmoid_bce(logits, labels) * weights, axis=0)
        return loss + 0.5 * l2 * jnp.sum(head.kernel**2, axis=0)

    def diagonal(head: Linear) -> Linear:
        p = jax.nn.sigmoid(_product(features.scores, head.kernel) + head.bias)
        of_bias = jnp.sum(p * (1 - p) * weights, axis=0)
        return Linear(features.variances[:, None] * of_bias + l2, of_bias)

    def dot(one: Linear, other: Linear) -> jax.Array:
        return jnp.sum(one.kernel * other.kernel, axis=0) + one.bias * other.bias

    # A class with no positive, or no negative, has no minimum. It stays where it starts: at its
    # log-odds, with half an image added to each side.
    has_minimum = (num_positives > 0) & (num_positives < num_counted)
    shape = len(features.variances), labels.shape[1]
    start = Linear(jnp.zeros(shape), jax.scipy.special.logit(positive_share))
    head = _minimised(objective, diagonal, start, dot, has_minimum, tolerance)
    return _turned_back(head, features)


def _turned_back(head: Linear, features: Rotated) -> Linear:
    """A head of scores as one of features."""
    kernel = _product(features.axes, head.kernel)
    return Linear(kernel, head.bias - _product(features.mean, kernel))


Dot = Callable[[Linear, Linear], jax.Array]


def _minimised(
    objective: Callable[[Linear], jax.Array],
    diagonal: Callable[[Linear], Linear],
    start: Linear,
    dot: Dot,
    has_minimum: jax.Array,
    tolerance: float,
) -> Linear:
    """The head of least objective, by Newton's method.

    The objective is a number, or one a class if classes are independent. So is the product `dot` of
    two heads, and whether there is a minimum: a class that has none stays at `start`. `diagonal`
    gives about the second derivatives along each axis.
    """
    gradient = jax.grad(lambda head: jnp.sum(objective(head)))
    epsilon = jnp.finfo(jnp.float32).eps

    def iterate(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        head, value, is_open, count = carry
        grad, curve = jax.linearize(gradient, head)
        divisors = jax.tree.map(lambda x: jnp.maximum(x, _LEAST_CURVATURE), diagonal(head))
        step = _newton_step(grad, curve, divisors, dot, is_open)
        slope = dot(grad, step)

        def is_too_far(scale: jax.Array, reached: jax.Array) -> jax.Array:
            enough = value * (1 + epsilon) + _LEAST_FALL * scale * slope
            return is_open & (reached > enough) & (scale > _LEAST_SCALE)

        def shorten(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            scale = jnp.where(is_too_far(*carry), carry[0] / 2, carry[0])
            return scale, objective(_moved(head, scale, step))

        scale, reached = jax.lax.while_loop(
            lambda carry: jnp.any(is_too_far(*carry)),
            shorten,
            (jnp.ones_like(value), objective(_moved(head, jnp.ones_like(value), step))),
        )
        falls = is_open & (reached < value)
        head = _moved(head, jnp.where(falls, scale, 0), step)
        is_far = -slope / 2 > tolerance * value
        is_open &= is_far & (reached < value * (1 - epsilon))
        return head, jnp.where(falls, reached, value), is_open, count + 1

    def is_unfinished(carry: tuple[Any, ...]) -> jax.Array:
        return jnp.any(carry[2]) & (carry[3] < _MOST_STEPS)

    carry = (start, objective(start), has_minimum, 0)
    return jax.lax.while_loop(is_unfinished, iterate, carry)[0]


def _newton_step(
    grad: Linear,
    curve: Callable[[Linear], Linear],
    divisors: Linear,
    dot: Dot,
    is_open: jax.Array,
) -> Linear:
    """The step at whose end a quadratic's gradient is `_REST` of `grad`, by conjugate gradients.

    `curve` multiplies by its second derivatives, and `divisors` are about their diagonal. What
    is not open needs no step.
    """
    downhill = jax.tree.map(jnp.negative, grad)
    first = jax.tree.map(jnp.divide, downhill, divisors)
    enough = _REST**2 * dot(downhill, first)

    def iterate(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        step, residual, direction, norm, count = carry
        is_far, bent = is_open & (norm > enough), curve(direction)
        scale = jnp.where(is_far, norm / dot(direction, bent), 0)
        residual = _moved(residual, -scale, bent)
        divided = jax.tree.map(jnp.divide, residual, divisors)
        left = dot(residual, divided)
        ratio = jnp.where(is_far, left / norm, 0)
        step = _moved(step, scale, direction)
        return step, residual, _moved(divided, ratio, direction), left, count + 1

    def is_unfinished(carry: tuple[Any, ...]) -> jax.Array:
        return jnp.any(is_open & (carry[3] > enough)) & (carry[4] < _MOST_STEPS)

    carry = (jax.tree.map(jnp.zeros_like, grad), downhill, first, dot(downhill, first), 0)
    return jax.lax.while_loop(is_unfinished, iterate, carry)[0]


def _moved(head: Linear, scale: jax.Array, step: Linear) -> Linear:
    return Linear(head.kernel + scale * step.kernel, head.bias + scale * step.bias)


@jax.jit
def fit_softmax(
    features: Rotated,
    labels: jax.Array,
    counts: jax.Array,
    l2: float | jax.Array,
    *,
    tolerance: float = 1e-4,
) -> Linear:
    """One L2-regularised softmax regression of images with one label each, by Newton's method.

    labels [N, C], each row with a single 1; counts [N] is how much each image counts, perhaps 0.
    Minimises the mean cross-entropy over what counts plus l2 / 2 times the squared norm of the
    weights, as `fit_rotated` does for each class alone, and stops as it does.
    """
    labels, counts = labels.astype(jnp.float32), counts.astype(jnp.float32)
    share = (counts @ labels + 0.5) / (jnp.sum(counts) + 0.5 * labels.shape[1])
    weights = counts / jnp.sum(counts)

    def objective(head: Linear) -> jax.Array:
        logits = _product(features.scores, head.kernel) + head.bias
        by_image = losses.softmax_cross_entropy(logits, labels)
        return jnp.sum(by_image * weights) + 0.5 * l2 * jnp.sum(head.kernel**2)

    def diagonal(head: Linear) -> Linear:
        p = jax.nn.softmax(_product(features.scores, head.kernel) + head.bias)
        of_bias = weights @ (p * (1 - p))
        return Linear(features.variances[:, None] * of_bias + l2, of_bias)

    def dot(one: Linear, other: Linear) -> jax.Array:
        return jnp.sum(one.kernel * other.kernel) + jnp.sum(one.bias * other.bias)

    start = Linear(jnp.zeros((len(features.variances), labels.shape[1])), jnp.log(share))
    head = _minimised(objective, diagonal, start, dot, jnp.array(True), tolerance)
    return _turned_back(head, features)


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
