"""ONNX files: their metadata, and running them in ONNX Runtime."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from vtl.errors import UserError
from vtl.export.graph import package
from vtl.export.onnx_graph import IMAGES, LOGITS, PROBABILITIES
from vtl.export.reference import BATCH, Outputs, Predict, joined
from vtl.untrusted import printable

QUIET = 3
"""ONNX Runtime's level of what it prints: errors, no warnings."""


def with_metadata(model: Any, facts: dict[str, Any]) -> bytes:
    """The bytes of a file whose metadata has the facts: text as it is, the rest as JSON."""
    del model.metadata_props[:]
    package("onnx").helper.set_model_props(
        model,
        {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in facts.items()
        },
    )
    return bytes(model.SerializeToString())


def runtime() -> str:
    """ONNX Runtime with its version.

    Raises:
        UserError: it is not installed.
    """
    return f"onnxruntime {package('onnxruntime').__version__}"


def predictor(content: bytes | Path) -> Predict:
    """What ONNX Runtime computes with a file, on the CPU.

    Raises:
        UserError: it is not installed, or refuses the file.
    """
    onnxruntime = package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    try:
        session = onnxruntime.InferenceSession(
            str(content) if isinstance(content, Path) else content,
            options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:  # its exceptions have no common base
        raise UserError(f"ONNX Runtime refuses the file: {printable(error)}") from error

    def predict(images: np.ndarray) -> Outputs:
        parts = [
            Outputs(*session.run([PROBABILITIES, LOGITS], {IMAGES: images[start : start + BATCH]}))
            for start in range(0, len(images), BATCH)
        ]
        return joined(parts)

    return predict
