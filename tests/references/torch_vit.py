"""timm's and transformers' Vision Transformers: what ours is compared with."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """The model for evaluation with every parameter drawn anew, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            drawn = torch.randn(parameter.shape, generator=generator)
            is_scale = parameter.ndim == 1 and not name.endswith(("bias", "class_embedding"))
            if is_scale:
                drawn = 1 + drawn / 4
            elif name.endswith("weight") and "position" not in name:
                drawn = drawn / np.sqrt(parameter[0].numel())
            else:
                drawn = drawn / 3
            parameter.copy_(drawn)
    return model.eval()


@contextlib.contextmanager
def watched(blocks: torch.nn.ModuleList) -> Iterator[dict[str, torch.Tensor]]:
    """The tokens [B, T, D] before the first block (`stem`) and after each (`blocks_0`, ...)."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str, value: object) -> None:
        seen[name] = value[0] if isinstance(value, tuple) else value  # type: ignore[assignment]

    handles = [
        block.register_forward_hook(lambda _, __, out, i=i: keep(f"blocks_{i}", out))
        for i, block in enumerate(blocks)
    ]
    handles.append(blocks[0].register_forward_pre_hook(lambda _, args: keep("stem", args[0])))
    yield seen
    for handle in handles:
        handle.remove()


def maps(tokens: torch.Tensor, size: int, patch: int) -> np.ndarray:
    """Tokens [B, T, D] -> those of the patches, [B, h, w, D]; they are the last."""
    side = size // patch
    return tokens[:, -side * side :].reshape(len(tokens), side, side, -1).detach().numpy()
