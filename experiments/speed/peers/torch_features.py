"""Deep features by a careful PyTorch script: the peer of experiments/speed/extraction.py.

    python -m experiments.speed.peers.torch_features DEVKIT WEIGHTS.safetensors OUT.npz SIDE

Workers decode and resize; the network is channels_last and runs under inference_mode. Photos are
squashed to SIDE, as `--config.data.resize=squash` does.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset

from tests.references.torch_resnet import TorchResNet

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Photos(Dataset[Any]):
    """The photos of one split, decoded, squashed and normalised: float32 [3, SIDE, SIDE]."""

    def __init__(self, root: Path, split: str, side: int) -> None:
        ids = (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
        self.paths = [root / "JPEGImages" / f"{photo_id}.jpg" for photo_id in ids]
        self.side = side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        size = (self.side, self.side)
        with Image.open(self.paths[index]) as image:
            squashed = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(squashed)).permute(2, 0, 1).float() / 255
        return (pixels - MEAN) / STD


def main() -> None:
    """Extract both splits and save them."""
    root, weights, target, side = sys.argv[1:]
    network = TorchResNet(50)
    network.load_state_dict(load_file(weights), strict=False)
    network.fc = torch.nn.Identity()
    network = network.eval().to(memory_format=torch.channels_last)
    arrays = {}
    for role, split in (("train", "trainval"), ("test", "test")):
        loader = DataLoader(Photos(Path(root), split, int(side)), batch_size=32, num_workers=2)
        with torch.inference_mode():
            features = [network(x.contiguous(memory_format=torch.channels_last)) for x in loader]
        arrays[f"X_{role}"] = torch.cat(features).numpy()
    np.savez(target, **arrays)


if __name__ == "__main__":
    main()
