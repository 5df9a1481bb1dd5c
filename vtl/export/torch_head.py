"""The heads that torchvision doesn't have, as a few lines of PyTorch for the user to copy."""

from collections.abc import Callable
from typing import Any

from vtl.export.graph import package
from vtl.models.architecture import Architecture

_POOLED = {
    "average": "x.mean((2, 3))",
    "maximum": "x.amax((2, 3))",
    "both": "torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)",
    "cells": "torch.stack([c.mean((2, 3)) for c in cells(x, 2)]).amax(0)",
}
_CELLS = '''\
def cells(maps, k):
    """The k x k cells of maps [N, C, H, W], by rows."""
    edges = [[(i * n // k, -(-(i + 1) * n // k)) for i in range(k)] for n in maps.shape[2:]]
    return [maps[:, :, a:b, c:d] for a, b in edges[0] for c, d in edges[1]]


'''


def text(architecture: Architecture) -> str:
    """The text of a function head(maps, fc): the last stage's maps [N, C, H, W] -> logits [N, K].

    `fc` is the network's last layer. It needs torch alone.
    """
    own = architecture
    uses_cells = own.regions or own.pooling == "cells"
    views = f"[maps, *cells(maps, {own.regions})]" if own.regions else "[maps]"
    lines = [
        "def head(maps, fc):",
        f'    """What the network\'s last layer sees: {own.pooling}, {own.transform}."""',
        f"    x = torch.stack([{_POOLED[own.pooling]} for x in {views}], 1)",
    ]
    if own.transform == "sqrt_l2":
        lines.append("    x = x.sign() * ((x.abs() + 1e-6).sqrt() - 1e-3)")
    if own.transform != "none":
        lines.append("    x = x / x.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()")
    lines.append("    logits = fc(x)")
    if own.regions:
        lines.append("    return (logits[:, 0] + logits[:, 1:].amax(1)) / 2")
    else:
        lines.append("    return logits[:, 0]")
    return (_CELLS if uses_cells else "") + "\n".join(lines) + "\n"


def function(architecture: Architecture) -> Callable[[Any, Any], Any]:
    """That function, from its text: what is checked is what is printed."""
    names: dict[str, Any] = {"torch": package("torch")}
    exec(text(architecture), names)
    function: Callable[[Any, Any], Any] = names["head"]
    return function
