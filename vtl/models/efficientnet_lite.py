"""EfficientNet-Lite in Flax Linen, sizes 0 to 4.

Module paths are those of timm's `tf_efficientnet_lite*`, with `_` for the dots inside a name:
`blocks.1.0.conv_pw` is `blocks_1_0/conv_pw`. Arrays are NHWC. No I/O and no weights live here.

Source: tensorflow/tpu, models/official/efficientnet/lite/efficientnet_lite_builder.py; Tan and Le
2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", table 1, without
squeeze-and-excitation, with ReLU6, and with a stem and a last convolution that don't grow.
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
from vtl.models.ops import PADDINGS, relu6


class Stage(NamedTuple):
    """Blocks of one kind: the first has the stride, and each widens its input by `expansion`."""

    expansion: int
    features: int
    blocks: int
    kernel_size: int
    stride: int


STAGES = (
    Stage(1, 16, 1, kernel_size=3, stride=1),
    Stage(6, 24, 2, kernel_size=3, stride=2),
    Stage(6, 40, 2, kernel_size=5, stride=2),
    Stage(6, 80, 3, kernel_size=3, stride=2),
    Stage(6, 112, 3, kernel_size=5, stride=1),
    Stage(6, 192, 4, kernel_size=5, stride=2),
    Stage(6, 320, 1, kernel_size=3, stride=1),
)
"""The stages of size 0."""
STEM, LAST = 32, 1280
"""Features of the first and the last convolution, whatever the size."""


class Size(NamedTuple):
    """How a size multiplies the stages' features and blocks, and the photos it was made for."""

    width: float
    depth: float
    image_size: int


SIZES = {
    0: Size(1.0, 1.0, 224),
    1: Size(1.0, 1.1, 240),
    2: Size(1.1, 1.2, 260),
    3: Size(1.2, 1.4, 280),
    4: Size(1.4, 1.8, 300),
}
MAX_WIDTH = 16
"""In multiples of the published networks' channels."""
EPSILON = 1e-3
"""BatchNorm's."""


def stages_of(size: int, width: float = 1.0) -> tuple[Stage, ...]:
    """`STAGES` in a size, with `width` times its features; the first and last keep their blocks."""
    scaled = []
    for stage in STAGES:
        features = _multiple_of_8(stage.features * SIZES[size].width * width)
        grows = stage not in (STAGES[0], STAGES[-1])
        blocks = math.ceil(stage.blocks * SIZES[size].depth) if grows else stage.blocks
        scaled.append(stage._replace(features=features, blocks=blocks))
    return tuple(scaled)


def _multiple_of_8(features: float) -> int:
    """The nearest multiple of 8, or the next if that takes away more than a tenth."""
    rounded = max(8, int(features + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * features else rounded


@dataclasses.dataclass(frozen=True)
class Architecture(architecture.Architecture):
    """An EfficientNet-Lite's size and width, and what the shapes of its tensors don't tell."""

    family = "efficientnet_lite"
    stages = (*(f"blocks_{i}" for i in range(len(STAGES))), "conv_head")
    last_stage = r"(blocks_[56]_\d+|conv_head|bn2)/.*"

    size: int
    width: float = 1.0
    padding: str = "same"
    epsilon: float = EPSILON

    @property
    def title(self) -> str:  # noqa: D102
        width = f" of width {self.width:g}" if self.width != 1 else ""
        return f"EfficientNet-Lite{self.size}{width}"

    @property
    def details(self) -> str:  # noqa: D102
        padding = {"same": "TensorFlow's", "torch": "torch's"}[self.padding]
        return f"{padding} padding, eps {self.epsilon:g}"

    @property
    def batch_norm_epsilon(self) -> float:  # noqa: D102
        return self.epsilon

    @property
    def num_channels(self) -> int:  # noqa: D102
        return LAST

    def module(self, dtype: DTypeLike) -> "EfficientNetLite":  # noqa: D102
        return EfficientNetLite(**dataclasses.asdict(self), dtype=dtype)

    def check(self) -> None:  # noqa: D102
        super().check()
        is_known = self.size in SIZES and self.padding in PADDINGS
        if not is_known or not (0 < self.width <= MAX_WIDTH and 0 < self.epsilon < 1):
            raise ValueError(f"there is no such EfficientNet-Lite: {self}")

    def agrees_with(self, implied: architecture.Architecture) -> bool:
        """Sizes 1 and 2 differ by their width alone, so that only the stages can be compared."""
        return (
            isinstance(implied, Architecture)
            and self.num_classes == implied.num_classes
            and stages_of(self.size, self.width) == stages_of(implied.size, implied.width)
        )

    def alternatives(self) -> dict[str, "Architecture"]:  # noqa: D102
        found = {}
        other = "torch" if self.padding == "same" else "same"
        changed = dataclasses.replace(self, padding=other)
        found[f"it looks like {changed.details}, not like {self.details}"] = changed
        for epsilon in (EPSILON, 1e-5):
            if not 0.5 < epsilon / self.epsilon < 2:
                text = f"eps looks like {epsilon:g}, not {self.epsilon:g}"
                found[text] = dataclasses.replace(self, epsilon=epsilon)
        return found


class Block(nn.Module):
    """An inverted bottleneck: 1x1 to more channels, a depthwise convolution, 1x1 to fewer.

    Without expansion the first 1x1 is left out. Source: Sandler et al. 2018, "MobileNetV2".
    """

    features: int
    expansion: int
    kernel_size: int
    stride: int
    padding: str
    epsilon: float
    dtype: DTypeLike
    conv: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array, norms_by_batch: Container[str]) -> jax.Array:
        """x [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features]."""
        inner = self.expansion * x.shape[-1]
        convs = [("conv_pw", inner), ("conv_dw", inner), ("conv_pwl", self.features)]
        if self.expansion == 1:
            convs = [("conv_dw", inner), ("conv_pw", self.features)]

        y = x
        for i, (name, features) in enumerate(convs, start=1):
            if name == "conv_dw":
                conv = self.conv(
                    features,
                    self.kernel_size,
                    self.stride,
                    self.dtype,
                    padding=self.padding,
                    depthwise=True,
                    name=name,
                )
            else:
                conv = self.conv(features, 1, 1, self.dtype, name=name)
            norm = BatchNorm(features, self.epsilon, name=f"bn{i}")
            y = conv_norm(y, conv, norm, norms_by_batch)
            if i < len(convs):
                y = relu6(y)
        return x + y if x.shape == y.shape else y


class EfficientNetLite(nn.Module):
    """An EfficientNet-Lite of any size in `SIZES`.

    `width` multiplies the stages' channels of that size. `padding` is TensorFlow's (`same`) for the
    published weights, or torch's. `dtype` is that of the activations; parameters, BatchNorm
    statistics and logits are float32. `pooling`, `transform` and `regions` are those of
    `models.head`. `conv` makes the convolutions: `layers.Conv`, or another module with the same
    arguments and parameters.
    """

    num_classes: int
    size: int
    width: float = 1.0
    padding: str = "same"
    epsilon: float = EPSILON
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

        The outputs are those of the `stem`, of each block (`blocks_0_0`, ...), of each stage
        (`blocks_0` to `blocks_6`) and of the last convolution, `conv_head`, all [B, h, w, C] in
        `dtype`; what the head gets, `seen`; of that, `views` [B, 1 + regions * regions, D] float32,
        and of the first of these, the whole photo, `features` [B, D]. jit drops what isn't used.
        """
        conv = self.conv(STEM, 3, 2, self.dtype, padding=self.padding, name="conv_stem")
        norm = BatchNorm(STEM, self.epsilon, name="bn1")
        x = relu6(conv_norm(images.astype(self.dtype), conv, norm, norms_by_batch))
        outputs: architecture.Outputs = {"stem": x}
        for index, stage in enumerate(stages_of(self.size, self.width)):
            for i in range(stage.blocks):
                name = f"blocks_{index}_{i}"
                block = Block(
                    features=stage.features,
                    expansion=stage.expansion,
                    kernel_size=stage.kernel_size,
                    stride=stage.stride if i == 0 else 1,
                    padding=self.padding,
                    epsilon=self.epsilon,
                    dtype=self.dtype,
                    conv=self.conv,
                    name=name,
                )
                x = block(x, norms_by_batch)
                outputs[name] = x
            outputs[f"blocks_{index}"] = x
        conv = self.conv(LAST, 1, 1, self.dtype, name="conv_head")
        x = relu6(conv_norm(x, conv, BatchNorm(LAST, self.epsilon, name="bn2"), norms_by_batch))
        seen = head.Seen(x)
        views = head.transformed(head.views(seen, self.pooling, self.regions), self.transform)
        outputs |= {"conv_head": x, "seen": seen, "views": views, "features": views[:, 0]}
        return head.logits_of(nn.Dense(self.num_classes, name=HEAD)(views)), outputs
