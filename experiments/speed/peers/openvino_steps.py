"""ResNet-50's evaluation by OpenVINO, from the ONNX file that PyTorch exports; it doesn't train."""

import openvino

from experiments.speed import bench
from experiments.speed.peers.onnx_steps import export
from vtl.errors import UserError

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def makers(setting: bench.Setting) -> bench.Makers:
    """The evaluation alone, on a CPU; in bfloat16 by OpenVINO's own choice of layers.

    Raises:
        UserError: it would have to use a GPU.
    """
    if bench.on_gpu():
        raise UserError("OpenVINO is measured on a CPU only")

    def evaluation() -> bench.Step:
        core = openvino.Core()
        network = core.read_model(export(setting.images))
        options = {"INFERENCE_PRECISION_HINT": PRECISIONS[setting.dtype]}
        request = core.compile_model(network, "CPU", options).create_infer_request()

        def step() -> None:
            for _ in range(setting.in_flight):
                request.infer([setting.images], share_inputs=True)

        return step

    return {bench.EVALUATION: evaluation}
