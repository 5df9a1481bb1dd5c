"""Write vtl/weights/verify/golden.json: PyTorch's activations for noise, block by block.

    python -m experiments.make.golden_weights demo

Takes names of sources, fetches them, and adds each to the file. `python -m vtl.weights verify`
compares our network with it without PyTorch. The reference is v1.5, so only such files work.
"""

import json
import sys

import numpy as np
import torch
from flax import traverse_util

from vtl.models import resnet
from vtl.preprocessing import normalise
from vtl.weights import convert, sources
from vtl.weights.verify import golden


def main() -> None:
    """Run the reference on each source and write the file."""
    from tests.references import torch_resnet

    recorded = golden.known()
    for name in sys.argv[1:]:
        weights = sources.load(name)
        architecture = weights.architecture
        if not isinstance(architecture, resnet.Architecture) or architecture.variant != "v1.5":
            sys.exit(f"{name} must be a ResNet v1.5, as the reference is, got {architecture}")
        num_classes = architecture.num_classes or 1000
        model = torch_resnet.TorchResNet(architecture.depth, num_classes, architecture.width)
        tensors = {tuple(key.split("/")): value for key, value in weights.tensors.items()}
        torch_resnet.load_arrays(
            model, convert.from_variables(traverse_util.unflatten_dict(tensors), architecture)
        )
        images = normalise(golden.noise(weights.preprocessing.crop_size), weights.preprocessing)
        outputs = torch_resnet.outputs(model, torch.tensor(np.asarray(images)).permute(0, 3, 1, 2))
        recorded[weights.sha256] = {
            "name": name,
            "framework": "PyTorch",
            "blocks": {
                block: [
                    float(f"{x:.6g}")
                    for x in (
                        output.mean(),
                        output.std(),
                        *output.ravel()[golden.positions(output.size)],
                    )
                ]
                for block, output in outputs.items()
                if block != "stem"
            },
        }
    text = json.dumps(recorded, indent=1)
    golden.PATH.write_text(text + "\n")
    print(f"{golden.PATH}: {len(recorded)} files")


if __name__ == "__main__":
    main()
