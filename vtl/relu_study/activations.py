"""The activations of a hidden layer, and the initialisation that goes with each."""

from collections.abc import Callable

import jax
from flax import linen as nn

NAMES = (
    "sigmoid",
    "tanh",
    "relu",
    "celu",
    "elu",
    "gelu",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "log_sigmoid",
    "relu6",
    "selu",
    "silu",
    "soft_sign",
    "softplus",
    "swish",
)
"""The activations of flax.linen that work number by number and have no parameters."""

_SYMMETRIC = ("tanh", "hard_tanh", "soft_sign")
"""Odd, with slope 1 at zero; Glorot's initialisation is made for these."""


def suited(activation: str) -> nn.initializers.Initializer:
    """The initialisation that keeps the signal's size through a layer with `activation`.

    tanh and its like: uniform, by Glorot and Bengio (2010). sigmoid: four times that, because its
    slope at zero is 1/4 (sigmoid(x) = (1 + tanh(x / 2)) / 2). selu: LeCun's, which its constants
    assume. All others: normal, by He et al. (2015), which is made for ReLU.
    """
    if activation in ("sigmoid", "hard_sigmoid"):
        return nn.initializers.variance_scaling(16.0, "fan_avg", "uniform")
    if activation in _SYMMETRIC:
        return nn.initializers.glorot_uniform()
    if activation == "selu":
        return nn.initializers.lecun_normal()
    return nn.initializers.he_normal()


INITIALISATIONS: dict[str, Callable[[str], nn.initializers.Initializer]] = {
    "suited": suited,
    "glorot_uniform": lambda activation: nn.initializers.glorot_uniform(),
    "he_normal": lambda activation: nn.initializers.he_normal(),
    "lecun_normal": lambda activation: nn.initializers.lecun_normal(),
}


def function(activation: str) -> Callable[[jax.Array], jax.Array]:
    """The function of flax.linen with this name, one of NAMES."""
    return getattr(nn, activation)
