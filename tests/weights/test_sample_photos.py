"""Real ImageNet weights on real photos: ours and PyTorch's name the same five classes."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.references import blocks
from vtl.data import images
from vtl.preprocessing import normalise
from vtl.training import augment
from vtl.weights import sources
from vtl.weights.formats import read

SHARED = Path(os.environ.get("VTL_SHARED") or Path(__file__).resolve().parents[2].parent / "shared")
WEIGHTS = SHARED / "weights" / "resnet50_imagenet_pq.safetensors"
PHOTOS = SHARED / "data" / "voc2012_animals" / "VOCdevkit" / "VOC2012" / "JPEGImages"
IDS = [
    "2007_000063",
    "2007_009724",
    "2008_001836",
    "2008_003622",
    "2008_005088",
    "2008_006100",
    "2008_007274",
    "2009_000012",
    "2009_001271",
    "2009_002565",
    "2009_004073",
    "2010_000026",
    "2010_000983",
    "2010_001679",
    "2010_002499",
    "2010_003497",
    "2010_004325",
    "2010_005107",
    "2010_005794",
    "2011_001245",
]

pytestmark = [
    pytest.mark.full,
    pytest.mark.parity,
    pytest.mark.skipif(
        not (WEIGHTS.exists() and PHOTOS.exists()),
        reason=f"needs {WEIGHTS} and {PHOTOS}; VTL_SHARED can name the directory that holds them",
    ),
]


@pytest.fixture(scope="module")
def outputs_of_both():
    """(our outputs, PyTorch's outputs) of every block for all photos."""
    pytest.importorskip("torch")
    from tests.references import torch_resnet

    weights = sources.load(str(WEIGHTS))
    p = weights.preprocessing
    photos = np.stack(
        [
            images.resize(
                images.load_rgb(PHOTOS / f"{photo_id}.jpg"),
                p.resize_size,
                p.resize,
                p.interpolation,
            )
            for photo_id in IDS
        ]
    )
    photos = np.asarray(augment.centre_crop(photos, p.crop_size))
    assert photos.shape == (20, 224, 224, 3)
    model, variables = blocks.build(weights.tensors, weights.architecture)
    ours = blocks.outputs(model, variables, np.asarray(normalise(photos, p)))

    reference = torch_resnet.TorchResNet(50)
    torch_resnet.load_arrays(reference, read(WEIGHTS).tensors)
    return ours, torch_resnet.outputs(reference, torch_resnet.normalised(photos))


def top_5(logits):
    return np.argsort(-logits, axis=1)[:, :5].tolist()


def test_top_5_is_pytorchs(outputs_of_both):
    ours, theirs = (
        dict(zip(IDS, top_5(outputs["logits"]), strict=True)) for outputs in outputs_of_both
    )
    assert len(IDS) == len(set(IDS)) == 20
    assert ours == theirs
    # The network is sure of its answers, and they differ from photo to photo.
    assert len({classes[0] for classes in ours.values()}) > 10


def test_blocks_are_pytorchs(outputs_of_both):
    ours, theirs = ({name: x[:1] for name, x in outputs.items()} for outputs in outputs_of_both)
    print(max(blocks.relative_errors(ours, theirs).values()))
    blocks.assert_close(ours, theirs)
