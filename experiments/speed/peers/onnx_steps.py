"""ResNet-50's evaluation by ONNX Runtime, exported from PyTorch; it doesn't train."""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from experiments.speed import bench
from experiments.speed.peers.torch_steps import Scorer
from vtl.errors import UserError


class Scores(torch.nn.Module):
    """uint8 images [B, H, W, 3] -> scores [B, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.scorer = Scorer()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The logits' sigmoid."""
        return torch.sigmoid(self.scorer(images))


def makers(setting: bench.Setting) -> bench.Makers:
    """The evaluation alone, with input and output bound to the device.

    Raises:
        UserError: another dtype than float32, or a GPU that this ONNX Runtime can't use.
    """
    if setting.dtype != "float32":
        raise UserError(f"ONNX Runtime is measured in float32 only, not in {setting.dtype}")

    def evaluation() -> bench.Step:
        device = "cuda" if bench.on_gpu() else "cpu"
        session = _session(export(setting.images), setting.tf32)
        binding = session.io_binding()
        images = onnxruntime.OrtValue.ortvalue_from_numpy(setting.images, device, 0)
        binding.bind_ortvalue_input("images", images)
        binding.bind_output("scores", device)

        def step() -> None:
            for _ in range(setting.in_flight):
                session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return step

    return {bench.EVALUATION: evaluation}


def export(images: np.ndarray) -> bytes:
    """The network as an ONNX file for batches like `images` [B, H, W, 3] uint8."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "network.onnx"
        torch.onnx.export(
            Scores().eval(),
            (torch.tensor(images),),
            path,
            input_names=["images"],
            output_names=["scores"],
            external_data=False,
            verbose=False,
        )
        return path.read_bytes()


def _session(network: bytes, tf32: bool) -> onnxruntime.InferenceSession:
    provider = "CUDAExecutionProvider" if bench.on_gpu() else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise UserError(f"this ONNX Runtime has no {provider}: install onnxruntime-gpu")
    options = onnxruntime.SessionOptions()
    # Otherwise its threads spin while the next peer is measured.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    settings = {"use_tf32": int(tf32)} if bench.on_gpu() else {}
    session = onnxruntime.InferenceSession(network, options, [(provider, settings)])
    if provider not in session.get_providers():
        raise UserError(f"ONNX Runtime could not start its {provider}")
    return session
