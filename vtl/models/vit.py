"""The Vision Transformer in Flax Linen: AugReg, DINO to DINOv3, MAE, CLIP's and SigLIP's.

Module paths are timm's, with `_` for the dots inside a name: `blocks.0.attn.qkv` is
`blocks_0/attn/qkv`. Images are NHWC. No I/O and no weights live here.

Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words"; the names and the details are
those of timm/models/vision_transformer.py, of DINOv3 those of timm/models/eva.py.
"""

import dataclasses
import functools
from collections.abc import Callable, Container

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from vtl.models import HEAD, architecture, head, ops, positions

MAX_PATCH, MAX_PATCHES = 64, 1 << 14
"""Pixels of a patch's side, and patches of a photo: attention takes the square of these."""

STAGES = ("stage1", "stage2", "stage3", "stage4")

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "silu": nn.silu,
}
"""Between the MLP's two layers; `quick_gelu` is OpenAI's in CLIP, `gelu_tanh` SigLIP's, and `silu`
that of gates.
"""

SIZES = {192: "Ti", 384: "S", 768: "B", 1024: "L", 1280: "H"}
"""Names of the widths that have one."""

_INIT = nn.initializers.truncated_normal(0.02)

_dense = functools.partial(nn.Dense, kernel_init=_INIT, dot_general=ops.dense_product)


@dataclasses.dataclass(frozen=True)
class Architecture(architecture.Architecture):
    """What a Vision Transformer is made of, and how it reads what its tensors hold."""

    family = "vit"
    stages = STAGES
    told_by_shapes = (
        *("width", "depth", "patch", "mlp_width", "grid", "class_token", "class_position"),
        *("registers", "pre_norm", "layer_scale", "attention_pooling", "fc_norm", "num_classes"),
        *("gated", "qkv_bias"),
    )

    width: int
    """Of a token."""
    depth: int
    """Blocks."""
    heads: int
    patch: int
    """Its side, in pixels."""
    mlp_width: int
    grid: int
    """The side of the grid of position embeddings, in patches; 0 where positions are rotary."""
    class_token: bool = True
    class_position: bool = True
    """Whether the class token has a position embedding."""
    registers: int = 0
    pre_norm: bool = False
    """Whether a LayerNorm stands before the blocks, as in CLIP; the patches then have no bias."""
    layer_scale: bool = False
    attention_pooling: bool = False
    """Whether a learnt query sums up the photo, as in SigLIP."""
    fc_norm: bool = False
    """Whether the last LayerNorm follows the mean of the patches instead of the last block."""
    activation: str = "gelu"
    epsilon: float = 1e-6
    """LayerNorm's."""
    resampling: str = "antialias"
    """How position embeddings get to another grid: one of `positions.RESAMPLINGS`."""
    rotary: str = ""
    """One of `positions.ROTARY` if patches turn queries and keys by their places, as in DINOv3.

    Keys then have no bias.
    """
    qkv_bias: bool = True
    """Whether there are biases of queries and values."""
    gated: bool = False
    """Whether the MLP is a SwiGLU. Source: Shazeer 2020, "GLU Variants Improve Transformer"."""

    @property
    def title(self) -> str:
        """`ViT-S/14`, gated `ViT-S+/16`; of a width that has no name `ViT-192x12/16`."""
        size = SIZES.get(self.width, f"{self.width}x{self.depth}")
        return f"ViT-{size}{'+' if self.gated else ''}/{self.patch}"

    @property
    def details(self) -> str:
        """`6 heads, gelu, eps 1e-06`, how many registers, and how rotary periods are rounded."""
        registers = f"{self.registers} registers, " if self.registers else ""
        rotary = f"rotary positions ({self.rotary}), " if self.rotary else ""
        return f"{rotary}{registers}{self.heads} heads, {self.activation}, eps {self.epsilon:g}"

    @property
    def last_stage(self) -> str:  # type: ignore[override]
        """A regex of the last quarter's blocks, and of what follows them."""
        last = range(3 * self.depth // 4, self.depth)
        blocks = "|".join(f"blocks_{i}" for i in last)
        return rf"({blocks}|norm|attn_pool|fc_norm)/.*"

    @property
    def plain_pooling(self) -> str:
        """DINOv2's linear evaluation adds the patches' mean to the class token, others don't."""
        if self.attention_pooling or self.fc_norm:
            return "token"
        if not self.class_token:
            return "average"
        return "token_average" if self.layer_scale else "token"

    @property
    def num_channels(self) -> int:  # noqa: D102
        return self.width

    @property
    def size_multiple(self) -> int:  # noqa: D102
        return self.patch

    def check_size(self, size: int) -> None:  # noqa: D102
        super().check_size(size)
        if (size // self.patch) ** 2 > MAX_PATCHES:
            raise ValueError(f"{size} pixels are more than {MAX_PATCHES} patches of {self.patch}")

    def module(self, dtype: DTypeLike) -> "ViT":  # noqa: D102
        return ViT(**dataclasses.asdict(self), dtype=dtype)

    def check(self) -> None:  # noqa: D102
        super().check()
        sizes = (self.width, self.patch, self.mlp_width, self.grid or 1, self.heads)
        are_sizes = (
            all(type(size) is int and size > 0 for size in sizes) and self.patch <= MAX_PATCH
        )
        if not are_sizes or type(self.depth) is not int or self.depth < len(STAGES):
            raise ValueError(f"there is no such ViT: {self}")
        is_known = self.activation in ACTIVATIONS and self.resampling in positions.RESAMPLINGS
        fits = (
            self.width % self.heads == 0
            and type(self.registers) is int
            and self.registers >= 0
            and (self.class_token or not self.class_position)
            and not (self.attention_pooling and self.fc_norm)
        )
        # Only networks with rotary positions have these.
        is_plain = bool(self.grid) and self.qkv_bias and not self.gated
        turns = self.rotary in positions.ROTARY and not self.grid and not self.class_position
        fits = fits and (turns and self.width // self.heads % 4 == 0 if self.rotary else is_plain)
        if not is_known or not fits or not 0 < self.epsilon < 1:
            raise ValueError(f"there is no such ViT: {self}")


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, heads: int, turns: positions.Turns | None = None
) -> jax.Array:
    """Queries [B, Q, D], keys and values [B, T, D] -> [B, Q, D]; the softmax is float32."""
    q, k, v = (t.reshape(*t.shape[:2], heads, -1).swapaxes(1, 2) for t in (q, k, v))
    if turns:
        q, k = positions.turned(q, turns), positions.turned(k, turns)
    scores = (q * q.shape[-1] ** -0.5) @ k.swapaxes(2, 3)
    weights = nn.softmax(scores.astype(jnp.float32), axis=-1).astype(v.dtype)
    out = (weights @ v).swapaxes(1, 2)
    return out.reshape(*out.shape[:2], -1)


class Attention(nn.Module):
    """Self-attention: every token looks at all tokens."""

    heads: int
    qkv_bias: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, turns: positions.Turns | None) -> jax.Array:
        """x [B, T, D] -> [B, T, D]."""
        width, is_plain = x.shape[-1], turns is None
        qkv = _dense(3 * width, use_bias=is_plain, dtype=self.dtype, name="qkv")(x)
        q, k, v = jnp.split(qkv, 3, axis=-1)
        if self.qkv_bias and not is_plain:
            q, v = (
                t + self.param(name, nn.initializers.zeros, (width,)).astype(t.dtype)
                for t, name in ((q, "q_bias"), (v, "v_bias"))
            )
        x = attention(q, k, v, self.heads, turns)
        return _dense(width, dtype=self.dtype, name="proj")(x)


class MLP(nn.Module):
    """Two dense layers, for each token by itself; the first may have a gate beside it."""

    width: int
    activation: str
    gated: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., D] -> [..., D]."""

        def wide(name: str) -> jax.Array:
            return _dense(self.width, dtype=self.dtype, name=name)(x)

        y = ACTIVATIONS[self.activation](wide("fc1_g" if self.gated else "fc1"))
        if self.gated:
            y *= wide("fc1_x")
        return _dense(x.shape[-1], dtype=self.dtype, name="fc2")(y)


class Block(nn.Module):
    """Attention, then the MLP; each sees normalised tokens and adds to what was there."""

    attention: Callable[..., Attention]
    layer_scale: bool
    norm: Callable[..., nn.LayerNorm]
    mlp: Callable[..., MLP]

    @nn.compact
    def __call__(self, x: jax.Array, turns: positions.Turns | None) -> jax.Array:
        """x [B, T, D] -> [B, T, D]."""
        y = self.attention(name="attn")(self.norm(name="norm1")(x), turns)
        x = x + self._scaled(y, "ls1")
        y = self.mlp(name="mlp")(self.norm(name="norm2")(x))
        return x + self._scaled(y, "ls2")

    def _scaled(self, y: jax.Array, name: str) -> jax.Array:
        """Touvron et al. 2021, "Going deeper with Image Transformers", section 2."""
        if not self.layer_scale:
            return y
        scale = self.param(name, nn.initializers.constant(1e-5), (y.shape[-1],))
        return y * scale.astype(y.dtype)


class AttentionPool(nn.Module):
    """A learnt query looks at all patches. Source: Zhai et al. 2022, "Scaling ViTs", section 3."""

    heads: int
    norm: Callable[..., nn.LayerNorm]
    mlp: Callable[..., MLP]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, patches: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Patches [B, T, D] -> the photo's summary [B, D], and each patch's own [B, T, D]."""
        width = patches.shape[-1]
        latent = self.param("latent", _INIT, (1, 1, width)).astype(self.dtype)
        query = _dense(width, dtype=self.dtype, name="q")(latent)
        kv = _dense(2 * width, dtype=self.dtype, name="kv")(patches)
        keys, values = jnp.split(kv, 2, axis=-1)
        query = jnp.broadcast_to(query, (patches.shape[0], 1, width))
        whole = attention(query, keys, values, self.heads)
        proj = _dense(width, dtype=self.dtype, name="proj")
        norm, mlp = self.norm(name="norm"), self.mlp(name="mlp")

        def finished(x: jax.Array) -> jax.Array:
            x = proj(x)
            return x + mlp(norm(x))

        # A query that sees one patch only takes that patch's value.
        return finished(whole)[:, 0], finished(values)


class ViT(nn.Module):
    """A Vision Transformer; the fields are those of `Architecture`.

    `dtype` is that of the activations; parameters, the statistics of LayerNorm, the softmax and the
    logits are float32.
    """

    num_classes: int
    width: int
    depth: int
    patch: int
    mlp_width: int
    grid: int
    class_token: bool
    class_position: bool
    registers: int
    pre_norm: bool
    layer_scale: bool
    attention_pooling: bool
    fc_norm: bool
    heads: int
    activation: str
    epsilon: float
    resampling: str
    rotary: str
    qkv_bias: bool
    gated: bool
    pooling: str
    transform: str
    regions: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, *, norms_by_batch: Container[str]
    ) -> tuple[jax.Array, architecture.Outputs]:
        """Normalised images [B, H, W, 3] -> logits [B, num_classes] float32, outputs by name.

        H and W are multiples of the patch. `norms_by_batch` has no say: there is no BatchNorm.

        The outputs are those of the `stem`, of each block (`blocks_0`, ...) and of each stage, a
        quarter of the blocks (`stage1` to `stage4`, the last normalised), all [B, h, w, D] in
        `dtype`, without the tokens that are no patches; what the head gets, `seen`; of that,
        `views` [B, 1 + regions * regions, F] float32, and of the first of these, the whole photo,
        `features` [B, F]. jit drops what isn't used.
        """
        batch, side = images.shape[0], self.patch
        norm = functools.partial(
            nn.LayerNorm, epsilon=self.epsilon, dtype=self.dtype, use_fast_variance=False
        )
        attention = functools.partial(Attention, self.heads, self.qkv_bias, self.dtype)
        mlp = functools.partial(MLP, self.mlp_width, self.activation, self.gated, self.dtype)
        patches = nn.Conv(
            self.width,
            (side, side),
            (side, side),
            padding="VALID",
            use_bias=not self.pre_norm,
            dtype=self.dtype,
            kernel_init=_INIT,
            name="patch_embed",
        )(images.astype(self.dtype))
        height, width = patches.shape[1:3]
        x = self._with_tokens(patches)
        if self.pre_norm:
            x = norm(name="norm_pre")(x)
        num_tokens = x.shape[1] - height * width
        turns = None
        if self.rotary:
            channels = self.width // self.heads
            turns = positions.turns((height, width), num_tokens, channels, self.rotary)

        def maps_of(x: jax.Array) -> jax.Array:
            return x[:, num_tokens:].reshape(batch, height, width, self.width)

        outputs: architecture.Outputs = {"stem": maps_of(x)}
        for i in range(self.depth):
            name = f"blocks_{i}"
            x = Block(attention, self.layer_scale, norm, mlp, name=name)(x, turns)
            outputs[name] = maps_of(x)
        for i, stage in enumerate(STAGES, start=1):
            outputs[stage] = outputs[f"blocks_{i * self.depth // len(STAGES) - 1}"]

        last_norm = norm(name="fc_norm" if self.fc_norm else "norm")
        mean, x = jnp.mean(x[:, num_tokens:], axis=1), last_norm(x)
        outputs[STAGES[-1]] = maps = maps_of(x)
        if self.fc_norm:
            seen = head.Seen(maps, last_norm(mean), maps)
        elif self.attention_pooling:
            pool = AttentionPool(self.heads, norm, mlp, self.dtype, name="attn_pool")
            summary, by_patch = pool(x[:, num_tokens:])
            seen = head.Seen(maps, summary, by_patch.reshape(maps.shape))
        elif self.class_token:
            seen = head.Seen(maps, x[:, 0], maps)
        else:
            seen = head.Seen(maps)
        views = head.transformed(head.views(seen, self.pooling, self.regions), self.transform)
        outputs |= {"seen": seen, "views": views, "features": views[:, 0]}
        return head.logits_of(nn.Dense(self.num_classes, name=HEAD)(views)), outputs

    def _with_tokens(self, patches: jax.Array) -> jax.Array:
        """Patches [B, h, w, D] -> tokens [B, T, D]: class, registers, patches with their places."""
        batch, height, width, channels = patches.shape
        if self.grid:
            num_places = self.grid**2 + self.class_position
            embeddings = self.param("pos_embed", _INIT, (1, num_places, channels))[0]
            of_class, of_grid = embeddings[: self.class_position], embeddings[self.class_position :]
            of_grid = of_grid.reshape(self.grid, self.grid, channels)
            of_grid = positions.resampled(of_grid, (height, width), self.resampling)
            patches = patches + of_grid.astype(self.dtype)
        x = patches.reshape(batch, height * width, channels)
        tokens = []
        if self.class_token:
            token = self.param("cls_token", _INIT, (1, 1, channels))
            tokens.append(token + of_class if self.class_position else token)
        if self.registers:
            tokens.append(self.param("reg_token", _INIT, (1, self.registers, channels)))
        tokens = [jnp.broadcast_to(t, (batch, *t.shape[1:])).astype(self.dtype) for t in tokens]
        return jnp.concatenate([*tokens, x], axis=1)
