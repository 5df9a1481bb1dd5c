"""What the readers of weight files share: nothing in such a file is believed unchecked."""

import ml_dtypes
import numpy as np

from vtl.errors import UserError

EXPECTED = "expected a safetensors, PyTorch .pth or Keras legacy .h5 file"

Tensors = dict[str, np.ndarray]


def widen(array: np.ndarray) -> np.ndarray:
    """The array in native byte order, half precision as float32; UserError if it isn't numbers."""
    if array.dtype in (np.float16, ml_dtypes.bfloat16):
        return array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise UserError(f"holds values of type {array.dtype}; expected numbers")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def check_present(what: str, promised: int, present: int) -> None:
    """UserError where a file of `present` bytes speaks of more."""
    if promised > present:
        raise UserError(
            f"looks truncated: {what} promises {promised} bytes, file has {present}; fetch it again"
        )
