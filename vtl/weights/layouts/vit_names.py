"""Names of a Vision Transformer's tensors, here and in other frameworks: one table a layout.

facebookresearch's DINO, DINOv2, DINOv3 and MAE name nearly all tensors as timm does.
"""

import re

from vtl.models import HEAD
from vtl.weights.layouts.rows import CONV, DENSE, VECTOR, Row, Turn

TOKENS = Turn(3, lambda t: t, lambda t: t)
"""[1, T, D], as timm has them."""
_TOKEN = Turn(1, lambda t: t[None, None], lambda t: t[0, 0])
_TABLE = Turn(2, lambda t: t[None], lambda t: t[0])


def _layer(theirs: str, ours: str, turn: Turn = DENSE, part: tuple[int, int] = (0, 1)) -> list[Row]:
    """A layer's kernel and bias."""
    return [
        Row(rf"{theirs}[._]weight", f"params/{ours}/kernel", turn, part),
        Row(rf"{theirs}[._]bias", f"params/{ours}/bias", VECTOR, part),
    ]


def _norm(theirs: str, ours: str) -> list[Row]:
    return [
        Row(rf"{theirs}\.weight", f"params/{ours}/scale"),
        Row(rf"{theirs}\.bias", f"params/{ours}/bias"),
    ]


_TIMM_BLOCK = r"blocks\.(\d+)"
TIMM = [
    *_layer(r"patch_embed\.proj", "patch_embed", CONV),
    Row(r"(cls_token|reg_token|pos_embed)", r"params/\1", TOKENS),
    Row(r"(?:register|storage)_tokens", "params/reg_token", TOKENS),
    *_norm(rf"{_TIMM_BLOCK}\.(norm[12])", r"blocks_\1/\2"),
    *_layer(rf"{_TIMM_BLOCK}\.(attn|mlp)\.(qkv|proj|fc1|fc1_g|fc1_x|fc2)", r"blocks_\1/\2/\3"),
    *(
        row
        for theirs, ours in (("w1", "fc1_g"), ("w2", "fc1_x"), ("w3", "fc2"))
        for row in _layer(rf"{_TIMM_BLOCK}\.mlp\.{theirs}", rf"blocks_\1/mlp/{ours}")
    ),
    Row(rf"{_TIMM_BLOCK}\.attn\.([qv]_bias)", r"params/blocks_\1/attn/\2"),
    Row(rf"{_TIMM_BLOCK}\.(ls[12])\.gamma", r"params/blocks_\1/\2"),
    Row(rf"{_TIMM_BLOCK}\.gamma_([12])", r"params/blocks_\1/ls\2"),
    *_norm("(norm_pre|norm|fc_norm)", r"\1"),
    Row(r"attn_pool\.latent", "params/attn_pool/latent", TOKENS),
    *_layer(r"attn_pool\.(q|kv|proj)", r"attn_pool/\1"),
    *_norm(r"attn_pool\.norm", "attn_pool/norm"),
    *_layer(r"attn_pool\.mlp\.(fc[12])", r"attn_pool/mlp/\1"),
    *_layer("head", HEAD),
]

_HF_BLOCK = r"(?:encoder\.)?layers?\.(\d+)"
TRANSFORMERS = [
    *_layer(r"embeddings\.patch_embeddings?(?:\.projection)?", "patch_embed", CONV),
    Row(r"embeddings\.cls_token", "params/cls_token", TOKENS),
    Row(r"embeddings\.class_embedding", "params/cls_token", _TOKEN),
    Row(r"embeddings\.register_tokens", "params/reg_token", TOKENS),
    Row(r"embeddings\.position_embeddings", "params/pos_embed", TOKENS),
    Row(r"embeddings\.position_embedding\.weight", "params/pos_embed", _TABLE),
    *_norm(rf"{_HF_BLOCK}\.(?:norm1|layernorm_before|layer_norm1)", r"blocks_\1/norm1"),
    *_norm(rf"{_HF_BLOCK}\.(?:norm2|layernorm_after|layer_norm2)", r"blocks_\1/norm2"),
    *(
        row
        for place, (short, long) in enumerate([("q", "query"), ("k", "key"), ("v", "value")])
        for row in _layer(
            rf"{_HF_BLOCK}\.(?:(?:attention|self_attn)\.{short}_proj|attention\.attention\.{long})",
            r"blocks_\1/attn/qkv",
            part=(place, 3),
        )
    ),
    *_layer(
        rf"{_HF_BLOCK}\.(?:attention\.(?:o_proj|output\.dense)|self_attn\.out_proj)",
        r"blocks_\1/attn/proj",
    ),
    *_layer(rf"{_HF_BLOCK}\.(?:mlp\.fc1|intermediate\.dense)", r"blocks_\1/mlp/fc1"),
    *_layer(rf"{_HF_BLOCK}\.(?:mlp\.fc2|output\.dense)", r"blocks_\1/mlp/fc2"),
    Row(rf"{_HF_BLOCK}\.layer_scale([12])\.lambda1", r"params/blocks_\1/ls\2"),
    *_norm(r"pre_layrnorm", "norm_pre"),
    *_norm(r"(?:(?:post_)?layernorm|norm)", "norm"),
    Row(r"head\.probe", "params/attn_pool/latent", TOKENS),
    *(
        row
        for place, theirs in enumerate(("query", "key", "value"))
        for row in _layer(
            rf"head\.attention\.{theirs}",
            "attn_pool/q" if place == 0 else "attn_pool/kv",
            part=(0, 1) if place == 0 else (place - 1, 2),
        )
    ),
    *_layer(r"head\.attention\.out_proj", "attn_pool/proj"),
    *_norm(r"head\.layernorm", "attn_pool/norm"),
    *_layer(r"head\.mlp\.(fc[12])", r"attn_pool/mlp/\1"),
    *_layer("classifier", HEAD),
]

_UP = rf"{_HF_BLOCK}\.mlp\.up_proj"
DINOV3 = [
    Row(rf"{_HF_BLOCK}\.attention\.([qv])_proj\.bias", r"params/blocks_\1/attn/\2_bias"),
    *_layer(_UP, r"blocks_\1/mlp/fc1"),
    *_layer(rf"{_HF_BLOCK}\.mlp\.down_proj", r"blocks_\1/mlp/fc2"),
    *TRANSFORMERS,
]
DINOV3_GATED = [
    *_layer(_UP, r"blocks_\1/mlp/fc1_x"),
    *_layer(rf"{_HF_BLOCK}\.mlp\.gate_proj", r"blocks_\1/mlp/fc1_g"),
    *DINOV3,
]
"""Of transformers: what keys have no bias for, and what else than in `TRANSFORMERS` an MLP is."""

_CLIP_BLOCK = r"transformer\.resblocks\.(\d+)"
OPENAI = [
    Row(r"conv1\.weight", "params/patch_embed/kernel", CONV),
    Row("class_embedding", "params/cls_token", _TOKEN),
    Row("positional_embedding", "params/pos_embed", _TABLE),
    *_norm("ln_pre", "norm_pre"),
    *_norm(rf"{_CLIP_BLOCK}\.ln_([12])", r"blocks_\1/norm\2"),
    *_layer(rf"{_CLIP_BLOCK}\.attn\.in_proj", r"blocks_\1/attn/qkv"),
    *_layer(rf"{_CLIP_BLOCK}\.attn\.out_proj", r"blocks_\1/attn/proj"),
    *_layer(rf"{_CLIP_BLOCK}\.mlp\.c_fc", r"blocks_\1/mlp/fc1"),
    *_layer(rf"{_CLIP_BLOCK}\.mlp\.c_proj", r"blocks_\1/mlp/fc2"),
    *_norm("ln_post", "norm"),
]

BODY = re.compile(
    r"(?:^|\.)("
    rf"(?:{_TIMM_BLOCK}|{_HF_BLOCK})\.(?:norm[12]|layernorm_\w+|layer_norm[12])\.(?:weight|bias)"
    rf"|{_CLIP_BLOCK}\.ln_[12]\.(?:weight|bias))$"
)
"""The names of its blocks' norms, from where what wraps the network ends."""

PATCHES = re.compile(
    r"(?:.*\.)?(?:patch_embed\.proj\.weight|class_embedding"
    r"|embeddings\.patch_embeddings?\.(?:projection\.)?weight)"
)

OF_TEXT = re.compile(
    r"(?:module\.)?(?:(?:text_model|text|transformer|token_embedding|ln_final)\..*"
    r"|text_projection(?:\.weight)?|visual_projection\.weight|visual\.proj|positional_embedding"
    r"|logit_scale|logit_bias|input_resolution|context_length|vocab_size)"
)
"""A text tower beside an image tower, and what takes both into a space of their own.

CLIP's linear probes see the class token before that. Source: Radford et al. 2021, "Learning
Transferable Visual Models", section A.3.
"""

IGNORED = re.compile(
    r"(?:.*\.)?(?:mask_token|embeddings\.position_ids"
    r"|(?:pooler\.dense|local_cls_norm)\.(?:weight|bias))"
)
"""What pre-training had and nothing needs: BEiT-like masks, numbers of places, an unused pooler,
DINOv3's norm of small crops.
"""

PUBLISHED = [
    (r"params/patch_embed/kernel", "patch_embed.proj.weight", CONV),
    (r"params/patch_embed/bias", "patch_embed.proj.bias", VECTOR),
    (r"params/(cls_token|reg_token|pos_embed)", r"\1", TOKENS),
    (r"params/attn_pool/latent", "attn_pool.latent", TOKENS),
    (r"params/blocks_(\d+)/(ls[12])", r"blocks.\1.\2.gamma", VECTOR),
    (r"params/blocks_(\d+)/attn/([qv]_bias)", r"blocks.\1.attn.\2", VECTOR),
    (rf"params/{HEAD}/kernel", "head.weight", DENSE),
    (rf"params/{HEAD}/bias", "head.bias", VECTOR),
    (r"params/blocks_(\d+)/(norm[12])/scale", r"blocks.\1.\2.weight", VECTOR),
    (r"params/blocks_(\d+)/(norm[12])/bias", r"blocks.\1.\2.bias", VECTOR),
    (r"params/blocks_(\d+)/(\w+)/(\w+)/kernel", r"blocks.\1.\2.\3.weight", DENSE),
    (r"params/blocks_(\d+)/(\w+)/(\w+)/bias", r"blocks.\1.\2.\3.bias", VECTOR),
    (r"params/attn_pool/mlp/(\w+)/kernel", r"attn_pool.mlp.\1.weight", DENSE),
    (r"params/attn_pool/mlp/(\w+)/bias", r"attn_pool.mlp.\1.bias", VECTOR),
    (r"params/attn_pool/(\w+)/kernel", r"attn_pool.\1.weight", DENSE),
    (r"params/attn_pool/norm/scale", "attn_pool.norm.weight", VECTOR),
    (r"params/attn_pool/(\w+)/bias", r"attn_pool.\1.bias", VECTOR),
    (r"params/(\w+)/scale", r"\1.weight", VECTOR),
    (r"params/(\w+)/bias", r"\1.bias", VECTOR),
]
"""Ours -> timm's."""

PUBLISHED_ROTARY = [
    (r"params/blocks_(\d+)/ls([12])", r"blocks.\1.gamma_\2", VECTOR),
    *PUBLISHED,
]
"""Of networks with rotary positions, whose LayerScale has another name in timm."""
