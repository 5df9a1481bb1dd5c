"""How far the probabilities of exported files are from vtl's, in each runtime that reads them.

    python -m experiments.export_differences --weights=FILE --photos=FOLDER

This needs the extra `parity`. The photos are evenly spread over the sorted names of the folder;
those that int8's scales come from are others. `resized by` says whether Pillow prepared the photos
or the file did. A runtime's difference is the largest of all photos and classes; other answers are
photos with another likeliest class, or classes on the other side of a half where a photo may have
several. Writes experiments/export_differences.csv.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from experiments import tables
from experiments.speed.processes import machine
from vtl.export import check, formats, onnx_file, onnx_graph, photos, reference
from vtl.export.reference import Outputs, Predict
from vtl.weights.sources import Weights

CALIBRATION = 100
"""Photos that int8's scales come from."""


def main() -> None:
    """Export, run and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--num-photos", type=int, default=200)
    options = parser.parse_args()
    weights = reference.load(options.weights, "")
    paths = sorted(str(path) for path in Path(options.photos).glob("*.jpg"))
    chosen = np.unique(np.linspace(0, len(paths) - 1, options.num_photos).astype(int))
    others = np.setdiff1d(np.arange(len(paths)), chosen)[:: max(1, len(paths) // CALIBRATION)]
    tried, scales = (
        photos.given([paths[i] for i in rows], weights.preprocessing, len(rows))
        for rows in (chosen, others)
    )
    ours = reference.predictor(weights)(tried.crops)
    rows: list[tables.Row] = []
    for name, resized_by, theirs in outputs(weights, tried, scales.crops):
        found = check.compare(name, ours, theirs, weights, tried.source)
        gap = np.abs(theirs.probabilities - ours.probabilities).max(axis=1)
        rows.append(
            {
                "runtime": name,
                "resized by": resized_by,
                "photos": found.num_photos,
                "largest_difference": f"{found.largest_difference:.1e}",
                "median_of_photos": f"{np.median(gap):.1e}",
                "photos_with_another_likeliest_class": int(
                    (theirs.probabilities.argmax(1) != ours.probabilities.argmax(1)).sum()
                ),
                **machine("jax", "onnxruntime", "openvino", "torch", "pillow"),
            }
        )
        tables.show(rows[-1])
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


def outputs(
    weights: Weights, tried: photos.Photos, scales: np.ndarray
) -> Iterator[tuple[str, str, Outputs]]:
    """Runtime and dtype, who resized, and what came out, for every format."""
    out = Path("network.onnx")
    whole = formats.to_onnx(weights, out)
    yield "ONNX Runtime", "Pillow", whole.predictor()(tried.crops)
    yield "OpenVINO", "Pillow", in_openvino(whole.model)(tried.crops)
    made = formats.to_stablehlo(weights, Path("network.stablehlo"))
    yield "JAX, StableHLO", "Pillow", made.predictor()(tried.crops)
    made = formats.to_torch(weights, Path("network.safetensors"))
    yield "PyTorch", "Pillow", made.predictor()(tried.crops)
    resizing = onnx_graph.make(weights, resizes=True)
    content = onnx_file.with_metadata(resizing, {})
    yield "ONNX Runtime", "the file", one_by_one(onnx_file.predictor(content), tried)
    yield "OpenVINO", "the file", one_by_one(in_openvino(resizing), tried)
    half = formats.to_onnx(weights, out, dtype="float16")
    yield "ONNX Runtime, float16", "Pillow", half.predictor()(tried.crops)
    small = formats.to_int8(whole, weights, out, scales)
    yield "ONNX Runtime, int8", "Pillow", small.predictor()(tried.crops)
    yield "OpenVINO, int8", "Pillow", in_openvino(small.model)(tried.crops)


def one_by_one(predict: Predict, tried: photos.Photos) -> Outputs:
    """What comes out for photos of different sizes."""
    return reference.joined([predict(picture()[None]) for picture in tried.pictures])


def in_openvino(model: Any) -> Predict:
    """What OpenVINO computes in float32 on the CPU."""
    core = openvino.Core()
    read = core.read_model(onnx_file.with_metadata(model, {}))
    network = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def predict(images: np.ndarray) -> Outputs:
        return reference.joined(
            [
                Outputs(*(np.array(x) for x in network(images[i : i + reference.BATCH]).values()))
                for i in range(0, len(images), reference.BATCH)
            ]
        )

    return predict


if __name__ == "__main__":
    main()
