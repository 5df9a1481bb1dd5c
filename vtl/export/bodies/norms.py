"""BatchNorm inside a convolution, and another epsilon inside its variances."""

import numpy as np

from vtl.weights.layouts.names import Tensors


def folded(tensors: Tensors, conv: str, norm: str, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """A convolution with its BatchNorm inside: kernel [O, I, H, W] and bias [O], float64."""
    kernel = tensors[f"params/{conv}/kernel"].astype(np.float64)
    scale, bias, mean, var = (
        tensors[f"{collection}/{norm}/{name}"].astype(np.float64)
        for collection, name in (
            *(("params", "scale"), ("params", "bias")),
            *(("batch_stats", "mean"), ("batch_stats", "var")),
        )
    )
    multiplier = scale / np.sqrt(var + epsilon)
    return (kernel * multiplier).transpose(3, 2, 0, 1), bias - mean * multiplier


def with_epsilon(tensors: Tensors, own: float, theirs: float) -> Tensors:
    """The tensors for a network whose BatchNorms have `theirs` for their `own` epsilon."""
    if own == theirs:
        return dict(tensors)
    return {
        name: (tensor.astype(np.float64) + (own - theirs)).astype(np.float32)
        if name.endswith("/var")
        else tensor
        for name, tensor in tensors.items()
    }
