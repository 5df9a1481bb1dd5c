"""What the tests of the readers share."""

import numpy as np
import pytest

from vtl.errors import UserError
from vtl.weights import formats

KEPT = ["float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"]


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def refusal(path):
    """The message that reading `path` is refused with: one line of printable text with the path."""
    with pytest.raises(UserError) as caught:
        formats.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    return message


def saved(tmp_path, data, name="weights.bin"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert actual[name].shape == tensor.shape, name
        np.testing.assert_array_equal(actual[name], tensor, err_msg=name)
