import jax
import pytest
from flax import traverse_util

from experiments.speed import bench
from vtl.models.resnet import ResNet

torch = pytest.importorskip("torch")
stages = pytest.importorskip("experiments.speed.stages")

pytestmark = pytest.mark.parity


@pytest.fixture
def cut():
    """The reference's stages without memory, and what goes into each: [2, C, H, W]."""
    with torch.device("meta"):
        parts = stages.torch_stages(stages.TorchResNet(50, 1000).eval())
        inputs, x = {}, torch.empty(2, 3, 224, 224)
    for name, part in parts.items():
        inputs[name], x = x, part(x)
    return parts, inputs


def test_flops_are_two_for_each_of_the_papers_multiply_adds(cut):
    parts, inputs = cut
    flops = {name: stages.forward_flops(part, inputs[name]) for name, part in parts.items()}
    assert flops["stem"] == 2 * 2 * 112 * 112 * 64 * 7 * 7 * 3
    assert flops["head"] == 2 * 2 * 2048 * 1000
    # 4.1 G of v1.5, whose stages stride in the 3x3; v1 has 3.8 (He et al. 2016, table 1).
    assert sum(flops.values()) / 2 / 2 == pytest.approx(4.089e9, rel=1e-3)


def test_operations_make_up_a_stage(cut):
    parts, inputs = cut
    operations = stages.operations(parts["layer2"], inputs["layer2"])
    assert operations["3x3 of stride 2 to 128, 128 channels at 56 x 56"].count == 1
    assert operations["3x3 of stride 1 to 128, 128 channels at 28 x 28"].count == 3
    assert operations["BatchNorm, 512 channels at 28 x 28"].count == 5
    total = sum(o.count * stages.forward_flops(o.theirs, o.x) for o in operations.values())
    assert total == stages.forward_flops(parts["layer2"], inputs["layer2"])


def test_our_stages_make_up_the_network(cut):
    _, inputs = cut
    model, key = ResNet(bench.NUM_CLASSES), jax.random.key(0)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    whole = jax.eval_shape(lambda x: model.init(key, x, norms_by_batch=()), image)
    pieces = {}
    for name, module in stages.OUR_STAGES.items():
        batch, channels, height, width = inputs[name].shape
        x = jax.ShapeDtypeStruct((batch, height, width, channels), "float32")
        pieces |= jax.eval_shape(lambda x, m=module: m.init(key, x, ()), x)["params"]
    assert traverse_util.flatten_dict(pieces) == traverse_util.flatten_dict(whole["params"])
