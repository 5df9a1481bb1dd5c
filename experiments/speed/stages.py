"""ResNet-50 in pieces, ours and PyTorch's alike: its stages, and the operations of a stage."""

import dataclasses
from collections.abc import Container

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn
from flax import traverse_util
from torch.utils.flop_counter import FlopCounterMode

from experiments.speed import bench
from tests.references.torch_resnet import TorchResNet
from vtl.models.layers import BatchNorm, Conv, conv_norm
from vtl.models.ops import max_pool, relu
from vtl.models.resnet import DEPTHS, Block
from vtl.training import optim

DEPTH, WIDTH, EPSILON = 50, 64, 1e-5
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4", "head")


class Stem(nn.Module):
    """Images [B, H, W, 3] -> [B, H / 4, W / 4, 64]."""

    @nn.compact
    def __call__(self, x: jax.Array, norms_by_batch: Container[str]) -> jax.Array:
        """As the network begins."""
        conv, norm = Conv(WIDTH, 7, 2, name="conv1"), BatchNorm(WIDTH, EPSILON, name="bn1")
        return max_pool(relu(conv_norm(x, conv, norm, norms_by_batch)))


class Layer(nn.Module):
    """One of the four stages of blocks, `number` 1 to 4."""

    number: int

    @nn.compact
    def __call__(self, x: jax.Array, norms_by_batch: Container[str]) -> jax.Array:
        """Block after block."""
        architecture = DEPTHS[DEPTH]
        for block in range(architecture.blocks[self.number - 1]):
            x = Block(
                features=WIDTH * 2 ** (self.number - 1),
                stride=2 if self.number > 1 and block == 0 else 1,
                conv=Conv,
                bottleneck=architecture.bottleneck,
                variant="v1.5",
                epsilon=EPSILON,
                dtype=jnp.float32,
                name=f"layer{self.number}_{block}",
            )(x, norms_by_batch)
        return x


class Head(nn.Module):
    """[B, H, W, C] -> logits [B, NUM_CLASSES]."""

    @nn.compact
    def __call__(self, x: jax.Array, norms_by_batch: Container[str]) -> jax.Array:
        """As the network ends."""
        return nn.Dense(bench.NUM_CLASSES, name="fc")(jnp.mean(x, axis=(1, 2)))


class Pool(nn.Module):
    """The max-pool as a module without parameters."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H / 2, W / 2, C]."""
        return max_pool(x)


OUR_STAGES: dict[str, nn.Module] = {
    "stem": Stem(),
    **{f"layer{number}": Layer(number) for number in (1, 2, 3, 4)},
    "head": Head(),
}


def torch_stages(network: TorchResNet) -> dict[str, torch.nn.Module]:
    """The reference network cut into the same stages."""
    stem = torch.nn.Sequential(network.conv1, network.bn1, torch.nn.ReLU(), network.maxpool)
    head = torch.nn.Sequential(network.avgpool, torch.nn.Flatten(1), network.fc)
    layers = {name: network.get_submodule(name) for name in STAGES[1:-1]}
    return {"stem": stem, **layers, "head": head}


def forward_flops(module: torch.nn.Module, x: torch.Tensor) -> int:
    """FLOPs of a module's convolutions and products, as torch counts them from their shapes."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return counter.get_total_flops()


def norms_by_batch(module: nn.Module, x: np.ndarray, batch_norm: str) -> frozenset[str]:
    """The paths of a stage's BatchNorms that normalise by the batch."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, ()))
    paths = traverse_util.flatten_dict(shapes["params"], sep="/")
    return optim.norms_by_batch(batch_norm, dict.fromkeys(paths, 1.0))


@dataclasses.dataclass
class Operation:
    """A PyTorch module, its input, our equivalent, and how often a stage has it."""

    theirs: torch.nn.Module
    x: torch.Tensor
    ours: nn.Module
    count: int = 0


def operations(stage: torch.nn.Module, x: torch.Tensor) -> dict[str, Operation]:
    """A stage's convolutions, BatchNorms and pools; equal ones are one operation."""
    by_name: dict[str, Operation] = {}

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        (x,) = inputs
        size_of_input = f"{x.shape[1]} channels at {x.shape[2]} x {x.shape[3]}"
        if isinstance(module, torch.nn.Conv2d):
            size, stride, features = module.kernel_size[0], module.stride[0], module.out_channels
            name = f"{size}x{size} of stride {stride} to {features}, {size_of_input}"
            ours: nn.Module = Conv(features, size, stride)
        elif isinstance(module, torch.nn.BatchNorm2d):
            name, ours = f"BatchNorm, {size_of_input}", BatchNorm(x.shape[1], EPSILON)
        else:
            name, ours = f"max-pool, {size_of_input}", Pool()
        by_name.setdefault(name, Operation(module, x.detach(), ours)).count += 1

    kinds = (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.MaxPool2d)
    hooks = [m.register_forward_hook(count) for m in stage.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        stage(x)
    for hook in hooks:
        hook.remove()
    return by_name


def nhwc(x: torch.Tensor) -> np.ndarray:
    """[B, C, H, W] -> [B, H, W, C]."""
    return np.ascontiguousarray(x.detach().permute(0, 2, 3, 1).cpu().numpy())
