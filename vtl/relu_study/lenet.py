"""The convolutional network of the lab's exercise 0, after LeNet-5 (LeCun et al. 1998). No I/O."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from vtl.relu_study import activations


class LeNet(nn.Module):
    """Two convolutions, each with a max-pool of 2, and two dense layers.

    images [B, H, W] -> logits [B, C] and the outputs of the hidden layers. The defaults are for
    28 x 28 pixels: kernels of 5 x 5 without padding, 28 -> 24 -> 12 -> 8 -> 4. For 8 x 8 pixels,
    3 x 3 kernels with a padding of 1 work: 8 -> 8 -> 4 -> 4 -> 2. `activation` is used by the
    convolutions, `dense_activation` by the hidden dense layer; both are from activations.NAMES.
    `initialisation` is one of activations.INITIALISATIONS. The logits' layer always has Glorot's
    initialisation. Biases start at zero.
    """

    activation: str
    dense_activation: str
    initialisation: str
    kernel_size: int = 5
    padding: int = 0
    channels: tuple[int, int] = (16, 32)
    num_hidden: int = 100
    num_classes: int = 10

    @property
    def hidden_activations(self) -> dict[str, str]:
        """The activation of each hidden layer."""
        return {
            "conv1": self.activation,
            "conv2": self.activation,
            "dense1": self.dense_activation,
        }

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits [B, C], {"conv1": [B, H, W, 16], "conv2": [B, h, w, 32], "dense1": [B, 100]}."""
        kernel_init_for = activations.INITIALISATIONS[self.initialisation]
        outputs = {}
        x = images[..., None]
        for name, num_channels in zip(("conv1", "conv2"), self.channels, strict=True):
            x = PatchConvolution(
                num_channels,
                self.kernel_size,
                self.padding,
                kernel_init=kernel_init_for(self.activation),
                name=name,
            )(x)
            outputs[name] = activations.function(self.activation)(x)
            x = max_pool(outputs[name])
        x = x.reshape(x.shape[0], -1)
        x = nn.Dense(
            self.num_hidden, kernel_init=kernel_init_for(self.dense_activation), name="dense1"
        )(x)
        outputs["dense1"] = activations.function(self.dense_activation)(x)
        logits = nn.Dense(
            self.num_classes, kernel_init=nn.initializers.glorot_uniform(), name="dense2"
        )(outputs["dense1"])
        return logits, outputs


class PatchConvolution(nn.Module):
    """nn.Conv with stride 1, computed as patches times a matrix, with nn.Conv's parameters.

    On XLA's CPU backend a convolution takes at least sixteen times as long inside a scan as outside
    (experiments/relu_convolution.csv). Concatenation and a matrix product do not.
    """

    num_channels: int
    kernel_size: int
    padding: int
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, D] -> [B, H', W', num_channels]."""
        size = self.kernel_size
        kernel = self.param("kernel", self.kernel_init, (size, size, x.shape[3], self.num_channels))
        bias = self.param("bias", nn.initializers.zeros, (self.num_channels,))
        margins = (self.padding, self.padding)
        x = jnp.pad(x, ((0, 0), margins, margins, (0, 0)))
        height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
        rows = jnp.concatenate([x[:, i : i + height] for i in range(size)], axis=3)
        patches = jnp.concatenate([rows[:, :, j : j + width] for j in range(size)], axis=3)
        # A patch runs over columns, then rows, then channels.
        matrix = kernel.transpose(1, 0, 2, 3).reshape(-1, self.num_channels)
        return patches @ matrix + bias


def max_pool(x: jax.Array) -> jax.Array:
    """The maximum of each 2 x 2 block of [B, H, W, D]; H and W must be even.

    Equal maxima share the gradient. It reshapes, because reduce-window's gradient is slow on CPUs.
    """
    batch, height, width, depth = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, depth).max(axis=(2, 4))
