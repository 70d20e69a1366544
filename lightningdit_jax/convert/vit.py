"""DINOv2 and MAE: timm's names, which MAE's own are too, and DINOv2's own."""

import math
import re
from collections.abc import Mapping

import numpy as np

from lightningdit_jax.convert.keymap import (
    Flat,
    Hints,
    KeyMap,
    Linear,
    PatchConv,
    Rule,
    Same,
    StateShapes,
    Tensors,
    known_heads,
)
from lightningdit_jax.models.vit_config import ViTConfig

DINOV2_SIGN = "blocks.0.ls1.gamma"
CHUNKED_DINOV2_SIGN = "blocks.0.0.ls1.gamma"
MAE_SIGN = "patch_embed.proj.weight"
# By width: DINOv2's four sizes, timm's ViTs, and MAE's ViT-H/14, whose heads are 80 wide.
_PUBLISHED_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1536: 24}


def canonical(tensors: Tensors) -> Mapping[str, np.ndarray]:
    """One set of names: timm's registers, DINOv2's gated MLPs, its blocks not in chunks."""
    renamed = {
        re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key).replace(
            "register_tokens", "reg_token"
        ): value
        for key, value in tensors.items()
    }
    up, down = (renamed.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    if up is None or down is None or up.ndim != 2 or up.shape[0] != 2 * down.shape[-1]:
        return renamed
    timm = {"mlp.fc1.": "mlp.w12.", "mlp.fc2.": "mlp.w3."}
    return {
        re.sub(r"mlp\.fc[12]\.", lambda match: timm[match[0]], key): value
        for key, value in renamed.items()
    }


def keymap(config: ViTConfig) -> KeyMap:
    """Table of a ViT encoder."""
    rules = (
        Rule("patch_embed.proj.weight", "patch_embed/kernel", PatchConv(config.patch_size)),
        Rule("patch_embed.proj.bias", "patch_embed/bias", Flat()),
        Rule("cls_token", "cls_token", Same(leading=2)),
        Rule("pos_embed", "pos_embed", Same(leading=1)),
        Rule("reg_token", "reg_token", Same(leading=1)),
        Rule("blocks.{L}.attn.proj.weight", "blocks/attn/proj/kernel", Linear(in_axes=2)),
        Rule("blocks.{L}.{0}.gamma", "blocks/(ls[12])/gamma", Flat()),
        Rule("blocks.{L}.{0}.weight", "blocks/(.+)/kernel", Linear()),
        Rule("blocks.{L}.{0}.weight", "blocks/(.+)/scale", Flat()),
        Rule("blocks.{L}.{0}.bias", "blocks/(.+)/bias", Flat()),
        Rule("norm.weight", "norm/scale", Flat()),
        Rule("norm.bias", "norm/bias", Flat()),
    )
    ignored = (
        (r"mask_token$", "token of masked patches, for pretraining only"),
        (r"decoder_", "decoder of masked patches, for pretraining only"),
        (r"head\.", "classifier on top of the encoder"),
    )
    return KeyMap(rules, ignored=ignored)


def infer(shapes: StateShapes, hints: Hints) -> ViTConfig:
    """Architecture of a ViT encoder, from the shapes of its state dict."""
    dim, _, patch, _ = shapes.read("patch_embed.proj.weight", (1024, 3, 14, 14))
    rows = shapes.read("pos_embed", (1, 1 + 37**2, dim))[1]
    grid = math.isqrt(rows)
    class_pos_embed = grid**2 != rows
    if grid**2 + class_pos_embed != rows:
        shapes.note(
            "pos_embed",
            f"wrong shape: pos_embed {shapes['pos_embed']}, expected a square of rows, or one more",
        )
    has_registers = "reg_token" in shapes
    use_swiglu = "blocks.0.mlp.w12.bias" in shapes
    if use_swiglu:
        mlp_hidden = shapes.read("blocks.0.mlp.w12.bias", (8 * dim,))[0] // 2
    else:
        (mlp_hidden,) = shapes.read("blocks.0.mlp.fc1.bias", (4 * dim,))
    return ViTConfig(
        patch_size=patch,
        hidden_size=dim,
        depth=max(shapes.count(r"blocks\.(\d+)\."), 1),
        num_heads=known_heads(shapes, dim, _PUBLISHED_HEADS, hints),
        mlp_hidden=mlp_hidden,
        pos_embed_grid=grid,
        layer_scale=DINOV2_SIGN in shapes,
        num_registers=shapes.read("reg_token", (1, 4, dim))[1] if has_registers else 0,
        class_pos_embed=class_pos_embed,
        use_swiglu=use_swiglu,
    )
