"""Write tests/golden/*_blocks.npz: the activations of PyTorch's networks for two images.

    python -m experiments.make.golden_activations

A ResNet-50 v1.5 and timm's EfficientNet-Lite0, both of a quarter of the width, see noise and a
photo; tests/references/recipe.py draws their weights. Of every block the file keeps 64 activations
at seeded positions, the largest absolute one and the mean. tests/models/test_golden.py compares our
networks with it without PyTorch. Takes a few seconds on a CPU and needs the extra `parity`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.references import recipe

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
PATHS = {
    network: GOLDEN / f"{network}_blocks.npz" for network in ("resnet50", "efficientnet_lite0")
}
WIDTH = 0.25
NUM_CLASSES = 20
SEED = 2016
SIZE = 96
SAMPLES = 64


def positions(name: str, count: int) -> np.ndarray:
    """Which of a block's `count` activations are kept: indices int64 [SAMPLES]."""
    uniform = recipe.Uniform(int.from_bytes(name.encode(), "little"))
    return (uniform(0, 1, (SAMPLES,)) * count).astype(np.int64)


def checksum(tensors: dict[str, np.ndarray]) -> float:
    """The sum of all absolute values: tells a changed recipe from a changed network."""
    return float(sum(np.abs(tensors[name], dtype=np.float64).sum() for name in sorted(tensors)))


def main() -> None:
    """Run the references and write the files."""
    from tests.references import timm_networks, torch_resnet

    resnet = torch_resnet.TorchResNet(50, NUM_CLASSES, WIDTH)
    write(PATHS["resnet50"], resnet, torch_resnet.outputs)
    lite = timm_networks.efficientnet_lite(0, NUM_CLASSES, WIDTH)
    write(PATHS["efficientnet_lite0"], lite, timm_networks.outputs)


def write(path: Path, model: Any, outputs_of: Callable[[Any, Any], dict[str, np.ndarray]]) -> None:
    """Draw a model's weights and write what its blocks give, as `outputs_of` has it."""
    from tests.references import torch_resnet

    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensors = recipe.random_state_dict(shapes, SEED)
    torch_resnet.load_arrays(model, tensors)
    # The file keeps the photo itself, because JPEG decoders differ in the last bit.
    inputs = {"noise": recipe.noise(1, SIZE, SEED), "photo": recipe.photo("china.jpg", SIZE)[None]}
    golden: dict[str, Any] = {"photo": inputs["photo"], "checksum": checksum(tensors)}
    for kind, images in inputs.items():
        outputs = outputs_of(model, torch_resnet.normalised(images))
        for name, output in outputs.items():
            golden[f"{kind}/{name}/sample"] = output.ravel()[positions(name, output.size)]
            golden[f"{kind}/{name}/max"] = np.abs(output).max()
            golden[f"{kind}/{name}/mean"] = output.mean(dtype=np.float64)
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **golden)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
