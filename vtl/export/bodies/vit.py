"""A Vision Transformer below its head: as an ONNX graph, and in timm."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from vtl.errors import UserError
from vtl.export.graph import Graph, Seen, package
from vtl.export.onnx_nodes import add_conv, constant
from vtl.export.usage import TorchUsage
from vtl.models import positions
from vtl.models.vit import Architecture
from vtl.weights.layouts.names import Tensors
from vtl.weights.sources import Weights

FAMILY = Architecture
IS_CONVOLUTIONAL = False
FIRST_KERNEL = "params/patch_embed/kernel"
CLIP_EPSILON, TIMM_EPSILON = 1e-5, 1e-6
"""LayerNorm's in CLIP and DINOv3, and in timm's networks of those names; else it is the second."""


_SLOPES = {"quick_gelu": 1.702, "silu": 1.0}
"""Of the activations that are x * sigmoid(slope * x)."""


def _own(weights: Weights) -> Architecture:
    assert isinstance(weights.architecture, Architecture)
    return weights.architecture


def add(graph: Graph, x: str, weights: Weights, dtype: str) -> Seen:
    """All blocks: [N, 3, S, S] -> what the head gets."""
    own = _own(weights)
    nodes = _Nodes(graph, weights, dtype)
    side = weights.preprocessing.crop_size // own.patch
    x = _with_tokens(nodes, x, side)
    if own.pre_norm:
        x = nodes.norm(x, "norm_pre")
    num_tokens = own.class_token + own.registers
    if own.rotary:
        channels = own.width // own.heads
        nodes.turns = positions.turns((side, side), num_tokens, channels, own.rotary)
    for i in range(own.depth):
        x = _add_block(nodes, x, f"blocks_{i}")

    if own.fc_norm:
        patches = nodes.sliced(x, num_tokens, None, "mean/patches")
        mean = graph.add("ReduceMean", "mean", patches, nodes.integers(1), keepdims=1)
        x = graph.add("Concat", "mean/first", mean, patches, axis=1)
        x, num_tokens = nodes.norm(x, "fc_norm"), 1
    else:
        x = nodes.norm(x, "norm")
    patches = nodes.sliced(x, num_tokens, None, "last/patches")
    maps = nodes.maps(patches, side, "last/maps")
    if own.attention_pooling:
        x = _pooled_by_attention(nodes, patches)
        points = nodes.maps(nodes.sliced(x, 1, None, "last/each"), side, "last/points")
    elif own.fc_norm or own.class_token:
        points = maps
    else:  # nothing sums the photo up
        return Seen(maps, (side, side))
    first = nodes.sliced(x, 0, 1, "last/token")
    summary = graph.add("Squeeze", "last/summary", first, nodes.integers(1))
    return Seen(maps, (side, side), summary, points)


def _with_tokens(nodes: "_Nodes", x: str, side: int) -> str:
    """Pixels -> tokens [N, T, D] with positions: class, registers, patches."""
    graph, own, width = nodes.graph, nodes.own, nodes.own.width
    kernel = nodes.tensor("patch_embed/kernel").transpose(3, 2, 0, 1)
    bias = np.zeros(width) if own.pre_norm else nodes.tensor("patch_embed/bias")
    x = add_conv(graph, x, kernel, bias, "patch_embed", nodes.dtype, own.patch, pads=(0, 0))
    x = graph.add("Transpose", "patches/last", nodes.reshaped(x, "rows", 0, 0, -1), perm=[0, 2, 1])
    if own.grid:
        of_class, of_grid = _places(nodes.tensor("pos_embed"), own, side)
        x = graph.add("Add", "patches", x, nodes.constant("pos_embed", of_grid[None]))
    tokens = []
    if own.class_token:
        token = nodes.tensor("cls_token")
        tokens.append(token + of_class if own.class_position else token)
    if own.registers:
        tokens.append(nodes.tensor("reg_token"))
    if not tokens:
        return x
    stored = nodes.constant("tokens", np.concatenate(tokens, axis=1))
    return graph.add("Concat", "all", nodes.for_each(stored, x, "tokens/each"), x, axis=1)


def _add_block(nodes: "_Nodes", x: str, block: str) -> str:
    y, attn = nodes.norm(x, f"{block}/norm1"), f"{block}/attn"
    if nodes.own.rotary:
        q, k, v = nodes.parts(nodes.product(y, f"{attn}/qkv"), 3, attn)
        if nodes.own.qkv_bias:
            q, v = (
                nodes.graph.add("Add", f"{attn}/{name}/out", t, nodes.parameter(f"{attn}/{name}"))
                for t, name in ((q, "q_bias"), (v, "v_bias"))
            )
    else:
        q, k, v = nodes.parts(nodes.dense(y, f"{attn}/qkv"), 3, attn)
    y = nodes.dense(nodes.attention(q, k, v, attn, nodes.turns), f"{attn}/proj")
    x = nodes.graph.add("Add", f"{block}/attended", x, nodes.scaled(y, f"{block}/ls1"))
    y = nodes.mlp(nodes.norm(x, f"{block}/norm2"), f"{block}/mlp")
    return nodes.graph.add("Add", block, x, nodes.scaled(y, f"{block}/ls2"))


def _pooled_by_attention(nodes: "_Nodes", patches: str) -> str:
    """Patches [N, T, D] -> [N, 1 + T, D]: the photo's summary, then each patch's own."""
    graph, path = nodes.graph, "attn_pool"
    query = nodes.dense(nodes.parameter(f"{path}/latent"), f"{path}/q")
    kv = nodes.dense(patches, f"{path}/kv")
    k, v = nodes.parts(kv, 2, path)
    whole = nodes.attention(nodes.for_each(query, patches, f"{path}/query"), k, v, path)
    x = nodes.dense(graph.add("Concat", f"{path}/both", whole, v, axis=1), f"{path}/proj")
    y = nodes.mlp(nodes.norm(x, f"{path}/norm"), f"{path}/mlp")
    return graph.add("Add", f"{path}/sum", x, y)


class _Nodes:
    """Layers as nodes, each called by the path of its parameters."""

    def __init__(self, graph: Graph, weights: Weights, dtype: str):
        self.graph, self.own, self.dtype = graph, _own(weights), dtype
        self.turns: positions.Turns | None = None
        self._tensors = weights.tensors

    def tensor(self, path: str) -> np.ndarray:
        return self._tensors[f"params/{path}"]

    def constant(self, name: str, array: Any) -> str:
        return constant(self.graph, name, np.asarray(array), self.dtype)

    def parameter(self, path: str) -> str:
        return self.constant(path, self.tensor(path))

    def integers(self, *numbers: int) -> str:
        name = f"integers/{','.join(map(str, numbers))}"
        return self.graph.constant(name, np.array(numbers, np.int64))

    def reshaped(self, x: str, name: str, *sides: int) -> str:
        """In another shape; a side of 0 stays."""
        return self.graph.add("Reshape", name, x, self.integers(*sides))

    def sliced(self, x: str, start: int, end: int | None, name: str, axis: int = 1) -> str:
        bounds = self.integers(start), self.integers(np.iinfo(np.int64).max if end is None else end)
        return self.graph.add("Slice", name, x, *bounds, self.integers(axis))

    def parts(self, x: str, count: int, name: str) -> list[str]:
        """[N, T, count * D] -> count times [N, T, D]."""
        width = self.own.width
        return [
            self.sliced(x, i * width, (i + 1) * width, f"{name}/part{i}", axis=2)
            for i in range(count)
        ]

    def for_each(self, x: str, photos: str, name: str) -> str:
        """x [1, T, D] for each of the photos [N, ...]: [N, T, D]."""
        count = self.graph.add("Shape", f"{name}/count", photos, start=0, end=1)
        shape = self.graph.add("Concat", f"{name}/shape", count, self.integers(1, 1), axis=0)
        return self.graph.add("Expand", name, x, shape)

    def maps(self, patches: str, side: int, name: str) -> str:
        """[N, T, D] -> [N, D, side, side]."""
        first = self.graph.add("Transpose", f"{name}/first", patches, perm=[0, 2, 1])
        return self.reshaped(first, name, 0, 0, side, side)

    def product(self, x: str, path: str) -> str:
        return self.graph.add("MatMul", f"{path}/product", x, self.parameter(f"{path}/kernel"))

    def dense(self, x: str, path: str) -> str:
        bias = self.parameter(f"{path}/bias")
        return self.graph.add("Add", f"{path}/out", self.product(x, path), bias)

    def norm(self, x: str, path: str) -> str:
        scale, bias = self.parameter(f"{path}/scale"), self.parameter(f"{path}/bias")
        epsilon = self.own.epsilon
        return self.graph.add(
            "LayerNormalization", f"{path}/out", x, scale, bias, axis=-1, epsilon=epsilon
        )

    def scaled(self, x: str, path: str) -> str:
        """LayerScale, where there is one."""
        if not self.own.layer_scale:
            return x
        return self.graph.add("Mul", f"{path}/out", x, self.parameter(path))

    def turned(self, x: str, turns: positions.Turns, name: str) -> str:
        """As `positions.turned`: [N, T, heads, D]."""
        graph, (cosines, sines) = self.graph, turns
        half = cosines.shape[1] // 2
        second = self.sliced(x, half, None, f"{name}/second", axis=3)
        first = self.sliced(x, 0, half, f"{name}/first", axis=3)
        across = graph.add(
            "Concat", f"{name}/across", graph.add("Neg", f"{name}/minus", second), first, axis=3
        )
        kept, moved = (
            graph.add("Mul", f"{name}/{what}", of, self.constant(f"turns/{what}", by[:, None]))
            for what, of, by in (("cosines", x, cosines), ("sines", across, sines))
        )
        return graph.add("Add", f"{name}/turned", kept, moved)

    def attention(
        self, q: str, k: str, v: str, name: str, turns: positions.Turns | None = None
    ) -> str:
        """[N, Q, D], [N, T, D], [N, T, D] -> [N, Q, D]."""
        graph, heads = self.graph, self.own.heads
        size = self.own.width // heads

        def by_head(x: str, what: str, perm: list[int]) -> str:
            split = self.reshaped(x, f"{name}/{what}/heads", 0, -1, heads, size)
            if turns and what != "v":
                split = self.turned(split, turns, f"{name}/{what}")
            return graph.add("Transpose", f"{name}/{what}", split, perm=perm)

        q = graph.add("Mul", f"{name}/small", q, self.constant("attention/scale", size**-0.5))
        q, v = by_head(q, "q", [0, 2, 1, 3]), by_head(v, "v", [0, 2, 1, 3])
        scores = graph.add("MatMul", f"{name}/scores", q, by_head(k, "k", [0, 2, 3, 1]))
        shares = graph.add("Softmax", f"{name}/shares", scores, axis=-1)
        seen = graph.add("MatMul", f"{name}/seen", shares, v)
        joined = graph.add("Transpose", f"{name}/joined", seen, perm=[0, 2, 1, 3])
        return self.reshaped(joined, f"{name}/all", 0, -1, self.own.width)

    def mlp(self, x: str, path: str) -> str:
        y = self.dense(x, f"{path}/{'fc1_g' if self.own.gated else 'fc1'}")
        y = self._activated(y, path)
        if self.own.gated:
            y = self.graph.add("Mul", f"{path}/gated", y, self.dense(x, f"{path}/fc1_x"))
        return self.dense(y, f"{path}/fc2")

    def _activated(self, x: str, path: str) -> str:
        """As `models.vit.ACTIVATIONS`."""

        def times(name: str, x: str, y: str) -> str:
            return self.graph.add("Mul", f"{path}/{name}", x, y)

        if self.own.activation in _SLOPES:
            steep = times("steep", x, self.constant("gelu/slope", _SLOPES[self.own.activation]))
            return times("gelu", x, self.graph.add("Sigmoid", f"{path}/gate", steep))
        one = self.constant("gelu/one", 1.0)
        if self.own.activation == "gelu":
            wide = times("wide", x, self.constant("gelu/root", math.sqrt(0.5)))
            bend = self.graph.add("Erf", f"{path}/erf", wide)
        else:
            weak = times("weak", times("square", x, x), self.constant("gelu/cubic", 0.044715))
            more = times("more", x, self.graph.add("Add", f"{path}/by", weak, one))
            wide = times("wide", more, self.constant("gelu/root", math.sqrt(2 / math.pi)))
            bend = self.graph.add("Tanh", f"{path}/tanh", wide)
        lifted = self.graph.add("Add", f"{path}/lifted", bend, one)
        return times("gelu", x, times("gate", lifted, self.constant("gelu/half", 0.5)))


def check_torch(weights: Weights) -> None:
    """Refuse a network that timm doesn't have.

    Raises:
        UserError: its head sees something else than timm's.
    """
    own = _own(weights)
    if own.rotary and (own.rotary != "float32" or own.activation != _timm_activation(own)):
        raise UserError(
            f"timm has no {own.title} with {own.activation} and rotary periods rounded to "
            f"{own.rotary}\nExport it as .onnx or .stablehlo."
        )
    epsilons = (CLIP_EPSILON,) if own.rotary else (CLIP_EPSILON, TIMM_EPSILON, 1e-12)
    if own.epsilon not in epsilons:  # 1e-12 is as good as timm's
        raise UserError(
            f"timm has no {own.title} whose LayerNorm has eps {own.epsilon:g}\n"
            "Export it as .onnx or .stablehlo."
        )
    if own.transform != "none" or own.regions or _timm_pool(own) is None:
        raise UserError(
            f"timm has no {own.title} whose head sees this ({own.pooling}, {own.transform}, "
            f"{own.regions} regions)\nExport it as .onnx or .stablehlo."
        )


def _timm_pool(own: Architecture) -> str | None:
    if own.pooling == "token":
        return "map" if own.attention_pooling else "avg" if own.fc_norm else "token"
    return "avg" if own.pooling == "average" and not own.fc_norm else None


def torch_architecture(weights: Weights) -> Architecture:
    """What timm makes of it."""
    own = _own(weights)
    grid = weights.preprocessing.crop_size // own.patch if own.grid else 0
    return dataclasses.replace(own, grid=grid)


def torch_tensors(weights: Weights) -> Tensors:
    """With the position embeddings of the photos' size: timm would resample them another way."""
    own, path = _own(weights), "params/pos_embed"
    if not own.grid:
        return weights.tensors
    of_class, of_grid = _places(weights.tensors[path], own, torch_architecture(weights).grid)
    return weights.tensors | {path: np.concatenate([of_class, of_grid])[None]}


def _places(embeddings: np.ndarray, own: Architecture, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Position embeddings of the class token [0 or 1, D], and of a grid of patches [T, D]."""
    of_class, of_grid = embeddings[0, : own.class_position], embeddings[0, own.class_position :]
    square = jnp.asarray(of_grid.reshape(own.grid, own.grid, own.width))
    there = np.asarray(positions.resampled(square, (side, side), own.resampling))
    return of_class, there.reshape(-1, own.width)


def _timm_name(own: Architecture) -> str:
    """A model of timm's with the same epsilon: everything else is said by arguments."""
    if own.rotary:
        return f"vit_small_{'plus_' if own.gated else ''}patch16_dinov3_qkvb"
    return "vit_base_patch16_clip_224" if own.epsilon == CLIP_EPSILON else "vit_base_patch16_224"


def _timm_activation(own: Architecture) -> str:
    """The only one of networks with rotary positions."""
    return "silu" if own.gated else "gelu"


def _timm_arguments(own: Architecture) -> dict[str, Any]:
    shared = {
        "patch_size": own.patch,
        "embed_dim": own.width,
        "depth": own.depth,
        "num_heads": own.heads,
        "mlp_ratio": own.mlp_width / own.width,
        "init_values": 1e-5 if own.layer_scale else None,
        "global_pool": _timm_pool(own),
        "class_token": own.class_token,
    }
    if own.rotary:
        align = {"swiglu_align_to": 1} if own.gated else {}
        return shared | align | {"num_reg_tokens": own.registers, "qkv_bias": own.qkv_bias}
    return shared | {
        "img_size": own.grid * own.patch,
        "no_embed_class": own.class_token and not own.class_position,
        "reg_tokens": own.registers,
        "pre_norm": own.pre_norm,
        "fc_norm": own.fc_norm,
        "act_layer": own.activation,
    }


def torch_usage(weights: Weights) -> TorchUsage:
    """What the user's own program says."""
    own = torch_architecture(weights)
    arguments = _timm_arguments(own) | {"num_classes": own.num_classes}
    said = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    make = f'timm.create_model("{_timm_name(own)}", {said})'
    return TorchUsage("timm", make, "model.forward_features(x)", "model.head")


def torch_logits(torch: Any, state: dict[str, Any], weights: Weights) -> Callable[[Any], Any]:
    """Normalised photos [N, 3, S, S] -> logits [N, K], by timm itself.

    Raises:
        UserError: timm is not installed.
    """
    del torch
    own = torch_architecture(weights)
    arguments = _timm_arguments(own) | {"num_classes": own.num_classes}
    model = package("timm").create_model(_timm_name(own), **arguments).eval()
    model.load_state_dict(state)
    return lambda x: model(x)


def timm_config(weights: Weights) -> dict[str, Any]:
    """What timm's config.json says of this family alone."""
    own = torch_architecture(weights)
    return {
        "architecture": _timm_name(own),
        "global_pool": _timm_pool(own),
        "model_args": _timm_arguments(own),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
