"""Images a second of exported files in ONNX Runtime, OpenVINO and JAX beside our own evaluation.

    python -m experiments.speed.export_speed --weights=FILE --photos=FOLDER

This needs the extra `parity`. All take the same uint8 crops to probabilities, each in a process of
its own; repetitions are interleaved, so that whatever else the machine does slows all alike. int8's
scales come from photos of the folder. A ratio is our rate over theirs: above 1 ours is faster.
Writes experiments/speed/export_speed.csv.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from experiments import tables
from experiments.speed import bench, throughput, workers
from vtl.export import formats, onnx_file, photos, reference, stablehlo

OUT = Path("network.onnx")
NUM_SCALES = 64
"""Photos that int8's scales come from."""

PEERS = (
    *("onnxruntime", "openvino", "stablehlo"),
    *("onnxruntime float16", "onnxruntime int8", "openvino int8"),
)


def makers(peer: str, name: str, folder: str, batch_size: int) -> bench.Makers:
    """A peer's evaluation of a batch of the network `name`."""

    def make() -> bench.Step:
        weights = reference.load(name, "")
        pixels = weights.preprocessing
        batch = bench.photos(batch_size, pixels.crop_size)
        if peer == throughput.OURS:
            bench.as_in_training()
            return in_jax(reference.function(weights), batch)
        if peer == "stablehlo":
            return in_jax(jax.export.deserialize(bytearray(stablehlo.make(weights))).call, batch)
        runtime, _, dtype = peer.partition(" ")
        made = formats.to_onnx(weights, OUT, dtype=dtype if dtype == "float16" else "float32")
        if dtype == "int8":
            scales = photos.given([folder], pixels, NUM_SCALES).crops
            made = formats.to_int8(made, weights, OUT, scales)
        content = onnx_file.with_metadata(made.model, {})
        return in_openvino(content, batch) if runtime == "openvino" else in_ort(content, batch)

    return {bench.EVALUATION: make}


def in_jax(function: Callable[[jax.Array], Any], batch: np.ndarray) -> bench.Step:
    """A function of JAX, compiled for the batch."""
    call, images = jax.jit(function), jax.device_put(batch)

    def step() -> None:
        jax.block_until_ready(call(images))

    return step


def in_ort(content: bytes, batch: np.ndarray) -> bench.Step:
    """ONNX Runtime, whose threads rest while others are measured."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])

    def step() -> None:
        session.run(None, {"images": batch})

    return step


def in_openvino(content: bytes, batch: np.ndarray) -> bench.Step:
    """OpenVINO in float32, or in what the file quantises to."""
    import openvino

    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    network = core.compile_model(core.read_model(content), "CPU", hints)

    def step() -> None:
        network(batch)

    return step


def main() -> None:
    """Measure all and write the table."""
    parser = bench.option_parser(__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--photos", required=True)
    options = parser.parse_args(sys.argv[1:])
    bench.check_options(parser, options)
    started: dict[str, bench.Makers] = {}
    packages: set[str] = set()
    for peer in (throughput.OURS, *PEERS):
        load = functools.partial(makers, peer, options.weights, options.photos, options.batch_size)
        started[peer], imported = workers.start(load)
        packages.update(imported)
    rows = throughput.measure(started, bench.EVALUATION, options.batch_size, options.repetitions)
    for row in rows:
        tables.show(row)
        row |= {"batch_size": options.batch_size}
        row |= bench.machine(packages | {"onnxruntime", "openvino"})
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


if __name__ == "__main__":
    main()
