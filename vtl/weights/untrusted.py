"""What the readers of weight files share: nothing in such a file is believed unchecked."""

import numpy as np

from vtl.errors import UserError

EXPECTED = "expected a safetensors, PyTorch .pth or Keras legacy .h5 file"

Tensors = dict[str, np.ndarray]


def check_present(what: str, promised: int, present: int) -> None:
    """UserError where a file of `present` bytes speaks of more."""
    if promised > present:
        raise UserError(
            f"looks truncated: {what} promises {promised} bytes, file has {present}; fetch it again"
        )
