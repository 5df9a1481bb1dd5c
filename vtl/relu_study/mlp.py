"""The perceptron of the lab's exercise 0: one hidden layer, 784-100-10 on MNIST. No I/O."""

import jax
from flax import linen as nn

from vtl.relu_study import activations


class Perceptron(nn.Module):
    """One hidden layer: images [B, H, W] -> logits [B, C] and the outputs of the hidden layer.

    `activation` is one of activations.NAMES, `initialisation` one of activations.INITIALISATIONS.
    The logits' layer always has Glorot's initialisation. Biases start at zero.
    """

    activation: str
    initialisation: str
    num_hidden: int = 100
    num_classes: int = 10

    @property
    def hidden_activations(self) -> dict[str, str]:
        """The activation of each hidden layer."""
        return {"dense1": self.activation}

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits [B, C], {"dense1": [B, num_hidden]}."""
        kernel_init = activations.INITIALISATIONS[self.initialisation](self.activation)
        x = images.reshape(images.shape[0], -1)
        x = nn.Dense(self.num_hidden, kernel_init=kernel_init, name="dense1")(x)
        hidden = activations.function(self.activation)(x)
        logits = nn.Dense(
            self.num_classes, kernel_init=nn.initializers.glorot_uniform(), name="dense2"
        )(hidden)
        return logits, {"dense1": hidden}
