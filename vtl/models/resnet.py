"""ResNet in Flax Linen: v1.5 (torchvision, timm) and v1 (Keras), 18 to 152 layers.

Module paths are torchvision's, with `_` for the dots inside a name: `layer1.0.downsample.0` is
`layer1_0/downsample_0`. Arrays are NHWC. No I/O and no weights live here.

Source: He et al. 2016, "Deep Residual Learning for Image Recognition", table 1; v1.5 has its stride
where torchvision/models/resnet.py has it.
"""

import dataclasses
import math
from collections.abc import Callable, Container
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from vtl.models import HEAD, architecture, head
from vtl.models.layers import BatchNorm, Conv, conv_norm
from vtl.models.ops import max_pool, relu


class Depth(NamedTuple):
    """One depth of the family: whether its blocks are bottlenecks, and how many a stage has."""

    bottleneck: bool
    blocks: tuple[int, int, int, int]


DEPTHS = {
    18: Depth(False, (2, 2, 2, 2)),
    34: Depth(False, (3, 4, 6, 3)),
    50: Depth(True, (3, 4, 6, 3)),
    101: Depth(True, (3, 4, 23, 3)),
    152: Depth(True, (3, 8, 36, 3)),
}
STAGES = ("layer1", "layer2", "layer3", "layer4")

VARIANTS = ("v1.5", "v1")
EPSILON = {"v1.5": 1e-5, "v1": 1.001e-5}
"""BatchNorm's epsilon in torchvision and timm (v1.5) and in Keras (v1)."""


@dataclasses.dataclass(frozen=True)
class Architecture(architecture.Architecture):
    """A ResNet's depth, width, and what the shapes of its tensors don't tell."""

    family = "resnet"
    stages = STAGES
    last_stage = r"layer4_\d+/.*"
    told_by_shapes = ("depth", "width", "num_classes")

    depth: int
    width: float
    variant: str
    epsilon: float

    @property
    def title(self) -> str:  # noqa: D102
        width = f" of width {self.width:g}" if self.width != 1 else ""
        return f"ResNet-{self.depth}{width}"

    @property
    def details(self) -> str:  # noqa: D102
        return f"{self.variant} stride, eps {self.epsilon:g}"

    @property
    def batch_norm_epsilon(self) -> float:  # noqa: D102
        return self.epsilon

    @property
    def num_channels(self) -> int:  # noqa: D102
        return 8 * round(64 * self.width) * (4 if DEPTHS[self.depth].bottleneck else 1)

    def module(self, dtype: DTypeLike) -> "ResNet":  # noqa: D102
        return ResNet(**dataclasses.asdict(self), dtype=dtype)

    def check(self) -> None:  # noqa: D102
        super().check()
        is_known = self.depth in DEPTHS and self.variant in VARIANTS
        if not is_known or not (0 < self.width < math.inf and 0 < self.epsilon < 1):
            raise ValueError(f"there is no such ResNet: {self}")

    def alternatives(self) -> dict[str, "Architecture"]:  # noqa: D102
        found = {}
        if DEPTHS[self.depth].bottleneck:
            other = "v1" if self.variant == "v1.5" else "v1.5"
            where = {"v1": "the first 1x1", "v1.5": "the 3x3"}[other]
            text = f"stride looks like {other}'s, in {where} convolution, not like {self.variant}'s"
            found[text] = dataclasses.replace(self, variant=other)
        for epsilon in (1e-3, EPSILON["v1.5"]):
            if not 0.5 < epsilon / self.epsilon < 2:
                text = f"eps looks like {epsilon:g}, not {self.epsilon:g}"
                found[text] = dataclasses.replace(self, epsilon=epsilon)
        return found


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or the 1x1, 3x3, 1x1 bottleneck."""

    features: int
    stride: int
    bottleneck: bool
    variant: str
    epsilon: float
    dtype: DTypeLike
    conv: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array, norms_by_batch: Container[str]) -> jax.Array:
        """x [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features (x4, bottleneck)]."""
        first = self.stride if self.variant == "v1" else 1
        out = self.features * (4 if self.bottleneck else 1)
        if self.bottleneck:
            second = self.stride // first
            convs = [(self.features, 1, first), (self.features, 3, second), (out, 1, 1)]
        else:
            convs = [(self.features, 3, self.stride), (out, 3, 1)]

        y = x
        for i, (features, kernel_size, stride) in enumerate(convs, start=1):
            conv = self.conv(features, kernel_size, stride, self.dtype, name=f"conv{i}")
            # The last scale starts at zero, so that a block starts as the identity (Goyal et al.
            # 2017, "Accurate, Large Minibatch SGD", section 5.1).
            init = nn.initializers.zeros if i == len(convs) else nn.initializers.ones
            norm = BatchNorm(features, self.epsilon, scale_init=init, name=f"bn{i}")
            y = conv_norm(y, conv, norm, norms_by_batch)
            if i < len(convs):
                y = relu(y)
        if x.shape[-1] != out or self.stride != 1:
            conv = self.conv(out, 1, self.stride, self.dtype, name="downsample_0")
            norm = BatchNorm(out, self.epsilon, name="downsample_1")
            x = conv_norm(x, conv, norm, norms_by_batch)
        return relu(x + y)


class ResNet(nn.Module):
    """A residual network of any depth in `DEPTHS`.

    `width` multiplies every stage's channels. `dtype` is that of the activations; parameters,
    BatchNorm statistics and logits are float32. `pooling`, `transform` and `regions` are those of
    `models.head`. `conv` makes the convolutions: `layers.Conv`, or another module with the same
    arguments and parameters.
    """

    num_classes: int
    depth: int = 50
    variant: str = "v1.5"
    width: float = 1.0
    epsilon: float = 1e-5
    pooling: str = "average"
    transform: str = "none"
    regions: int = 0
    dtype: DTypeLike = jnp.float32
    conv: Callable[..., Conv] = Conv

    @nn.compact
    def __call__(
        self, images: jax.Array, *, norms_by_batch: Container[str]
    ) -> tuple[jax.Array, architecture.Outputs]:
        """Normalised images [B, H, W, 3] -> logits [B, num_classes] float32, outputs by name.

        `norms_by_batch` holds the paths of the BatchNorms that normalise by the batch and update
        their running statistics; all others use their running averages. Empty for evaluation.

        The outputs are those of the `stem`, of each block (`layer1_0`, ...) and of each stage
        (`layer1` to `layer4`), all [B, h, w, C] in `dtype`; what the head gets, `seen`; of that,
        `views` [B, 1 + regions * regions, D] float32, and of the first of these, the whole photo,
        `features` [B, D]. jit drops what isn't used.
        """
        bottleneck, blocks = DEPTHS[self.depth]
        stem = round(64 * self.width)
        conv = self.conv(stem, 7, 2, self.dtype, name="conv1")
        norm = BatchNorm(stem, self.epsilon, name="bn1")
        x = max_pool(relu(conv_norm(images.astype(self.dtype), conv, norm, norms_by_batch)))
        outputs: architecture.Outputs = {"stem": x}
        for stage, (name, num_blocks) in enumerate(zip(STAGES, blocks, strict=True)):
            for i in range(num_blocks):
                block = Block(
                    features=stem * 2**stage,
                    stride=2 if stage > 0 and i == 0 else 1,
                    bottleneck=bottleneck,
                    variant=self.variant,
                    epsilon=self.epsilon,
                    dtype=self.dtype,
                    conv=self.conv,
                    name=f"{name}_{i}",
                )
                x = block(x, norms_by_batch)
                outputs[f"{name}_{i}"] = x
            outputs[name] = x
        seen = head.Seen(x)
        views = head.transformed(head.views(seen, self.pooling, self.regions), self.transform)
        outputs |= {"seen": seen, "views": views, "features": views[:, 0]}
        return head.logits_of(nn.Dense(self.num_classes, name=HEAD)(views)), outputs
