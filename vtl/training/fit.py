"""The one fit for arrays that are in memory whole: features and their labels."""

import functools

import jax
import jax.numpy as jnp
import optax

from vtl.training import losses


@functools.partial(jax.jit, static_argnames=("max_iterations",))
def logistic_regression(
    features: jax.Array,
    labels: jax.Array,
    known: jax.Array,
    l2: float | jax.Array,
    *,
    max_iterations: int = 1000,
    tolerance: float = 1e-5,
) -> tuple[jax.Array, jax.Array]:
    """One L2-regularised logistic regression a class, by L-BFGS: kernel [D, C], bias [C].

    features [N, D]; labels, known [N, C] in {0, 1}. Minimises the mean cross-entropy over the known
    labels plus l2 / 2 times the squared norm of the weights; the bias is free. scikit-learn's
    `C` is 1 / (N l2). Stops where the objective is within a fraction of `tolerance` of its minimum,
    by the bound that strong convexity gives: |gradient|^2 / (2 l2).
    """
    # The bias is free, so centring changes the path to the minimum (a shorter one) and not the
    # minimum.
    mean = jnp.mean(features.astype(jnp.float32), axis=0)
    features = features.astype(jnp.float32) - mean
    solver = optax.lbfgs()

    def fit_class(labels: jax.Array, known: jax.Array) -> tuple[jax.Array, jax.Array]:
        def objective(params: tuple[jax.Array, jax.Array]) -> jax.Array:
            kernel, bias = params
            loss = losses.sigmoid_bce_mean(features @ kernel + bias, labels, known)
            return loss + 0.5 * l2 * jnp.sum(kernel**2)

        value_and_grad = optax.value_and_grad_from_state(objective)
        start = (jnp.zeros(features.shape[1]), jnp.zeros(()))

        def is_unfinished(carry: tuple) -> jax.Array:
            _, _, iteration, gap = carry
            return (iteration < max_iterations) & (gap > tolerance)

        def iterate(carry: tuple) -> tuple:
            params, state, iteration, _ = carry
            value, grad = value_and_grad(params, state=state)
            updates, state = solver.update(
                grad, state, params, value=value, grad=grad, value_fn=objective
            )
            gap = optax.tree.norm(grad, squared=True) / (2 * l2 * value)
            return optax.apply_updates(params, updates), state, iteration + 1, gap

        carry = (start, solver.init(start), 0, jnp.inf)
        kernel, bias = jax.lax.while_loop(is_unfinished, iterate, carry)[0]
        return kernel, bias - mean @ kernel

    fit = jax.vmap(fit_class, in_axes=1, out_axes=(1, 0))
    return fit(labels.astype(jnp.float32), known.astype(jnp.float32))
