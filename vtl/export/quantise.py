"""Smaller ONNX files, and what they cost: float16 and int8 beside float32."""

import logging
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtl.errors import UserError
from vtl.evaluation import metrics, one_label
from vtl.evaluation.outcome import MAP_PROTOCOL
from vtl.export.check import Comparison, compare
from vtl.export.graph import package
from vtl.export.labelled import Labelled
from vtl.export.onnx_graph import FIRST, IMAGES, LAST
from vtl.export.reference import Outputs, Predict
from vtl.untrusted import printable
from vtl.weights.sources import Weights

BATCH = 8


class _Batches:
    """Photos in batches, as ONNX Runtime's CalibrationDataReader gives them."""

    def __init__(self, crops: np.ndarray):
        self._crops, self._starts = crops, iter(range(0, len(crops), BATCH))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, None after the last."""
        start = next(self._starts, None)
        return None if start is None else {IMAGES: self._crops[start : start + BATCH]}


def to_int8(model: Any, crops: np.ndarray) -> Any:
    """The model with its convolutions in int8, by ONNX Runtime's static quantisation.

    Activations get one scale a tensor from `crops` [N, S, S, 3], weights one a channel. What comes
    before the convolutions and the head stay float32.

    Raises:
        UserError: ONNX Runtime is not installed, or can't do it.
    """
    onnx = package("onnx")
    package("onnxruntime")
    quantization = package("onnxruntime.quantization")
    others = [n.name for n in model.graph.node if n.name.startswith((FIRST, LAST))]
    with tempfile.TemporaryDirectory() as directory:
        before, after = (Path(directory) / f"{name}.onnx" for name in ("before", "after"))
        onnx.save(model, before)
        logging.disable(logging.WARNING)  # advice to a program's author
        try:
            quantization.quantize_static(
                str(before),
                str(after),
                _Batches(crops),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                # Seven bits of the weights: sums of eight overflow on processors without VNNI.
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=["Conv", "Add", "MaxPool"],
                nodes_to_exclude=others,
            )
        # Its exceptions have no common base.
        except Exception as error:
            raise UserError(f"ONNX Runtime can't quantise it: {printable(error)}") from error
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(after)


class Cost(NamedTuple):
    """What a smaller file costs: its answers beside float32's and, with labels, the mAPs."""

    comparison: Comparison
    map_before: float | None
    map_after: float | None
    difference: tuple[float, float, float] | None
    """The mAP with it minus that of float32, and its 95 % interval, as fractions."""

    def words(self) -> list[str]:
        """Lines for people."""
        lines = [f"beside float32 in {self.comparison.words()}"]
        if self.map_before is None or self.map_after is None or self.difference is None:
            return [*lines, "no labels are known here, so what it costs in mAP is not known"]
        gap, low, high = (100 * x for x in self.difference)
        return [
            *lines,
            f"mAP ({MAP_PROTOCOL}) on the same photos: {100 * self.map_before:.2f} in float32, "
            f"{100 * self.map_after:.2f} in this file: {gap:+.2f} [{low:+.2f}, {high:+.2f}]",
        ]


def cost_of(
    runtime: str,
    whole: Predict,
    small: Predict,
    weights: Weights,
    crops: np.ndarray,
    photos: str,
    labelled: Labelled | None,
    classes: tuple[str, ...],
) -> Cost:
    """`small` beside `whole` on the labelled photos, or on `crops` if there are none."""
    if labelled is not None:
        crops, photos = labelled.crops, f"{len(labelled.crops)} photos of {labelled.role}"
    before, after = whole(crops), small(crops)
    comparison = compare(runtime, before, after, weights, photos)
    if not np.isfinite(comparison.largest_difference):
        raise UserError(
            "in this dtype the network gives NaN or infinity: nothing was written\n"
            "Its activations are too large; export it with --dtype=float32."
        )
    if labelled is None or not labelled.labels.any():
        return Cost(comparison, None, None, None)
    ranked = [_ranked_by(outputs, weights) for outputs in (before, after)]
    flags = labelled.difficult
    maps = [
        metrics.mean_average_precision(
            logits, labelled.labels, flags, classes, MAP_PROTOCOL, labelled.label_mask
        )
        for logits in ranked
    ]
    difference = metrics.paired_difference(
        ranked[1], ranked[0], labelled.labels, flags, MAP_PROTOCOL, label_mask=labelled.label_mask
    )
    return Cost(comparison, maps[0], maps[1], difference)


def _ranked_by(outputs: Outputs, weights: Weights) -> np.ndarray:
    return outputs.logits if weights.multi_label else one_label.normalised(outputs.logits)
