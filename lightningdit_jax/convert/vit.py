"""Vision transformers: DINOv2 and MAE, DINOv3, SigLIP 2, CLIP's image tower; timm's names."""

import dataclasses
import math
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
    known_heads,
)
from lightningdit_jax.convert.vit_names import OPENAI_SIGN
from lightningdit_jax.models.vit_config import ViTConfig

DINOV2_SIGNS = (
    "blocks.0.ls1.gamma",
    "blocks.0.0.ls1.gamma",  # its authors' blocks in chunks
    "encoder.layer.0.layer_scale1.lambda1",
)
DINOV3_SIGNS = (
    "storage_tokens",
    "blocks.0.gamma_1",
    "layer.0.layer_scale1.lambda1",
    "model.layer.0.layer_scale1.lambda1",
)
SIGLIP_SIGNS = (
    "attn_pool.latent",
    "visual.trunk.attn_pool.latent",
    "head.probe",
    "vision_model.head.probe",
)
CLIP_SIGNS = (
    OPENAI_SIGN,
    "embeddings.class_embedding",
    "vision_model.embeddings.class_embedding",
    "norm_pre.weight",
)
MAE_SIGN = "patch_embed.proj.weight"

_PRETRAINING = (
    (r"mask_token$", "token of masked patches, for pretraining only"),
    (r"decoder_", "decoder of masked patches, for pretraining only"),
)
_CLASSIFIER = ((r"(head|classifier)\.", "classifier on top of the encoder"),)
_TEXT = (
    (
        r"text(_model)?\.|transformer\.|token_embedding\.|positional_embedding$|ln_final\."
        r"|text_projection|logit_(scale|bias)$|(input_resolution|context_length|vocab_size)$",
        "the text tower and what joins it to the images'",
    ),
    (r"embeddings\.position_ids$", "numbers of positions"),
)
_ROTARY = (
    (r"rope_embed\.periods$", "periods of the rotary positions, which are computed"),
    (r".*\.bias_mask$", "that keys have no bias"),
    (r"local_cls_norm\.", "norm of local crops, for pretraining only"),
)


@dataclasses.dataclass(frozen=True)
class Family:
    """What the weights of a family of ViTs do not tell.

    heads: by width, of the published models. ignored: see KeyMap. norm_eps, activation (of some
    widths another), rotary_base: as ViTConfig. projects: its head is no classifier. rules: before
    those of all.
    """

    heads: Mapping[int, int]
    ignored: tuple[tuple[str, str], ...]
    norm_eps: float = 1e-6
    activation: str = "gelu"
    activations: Mapping[int, str] = dataclasses.field(default_factory=dict)
    rotary_base: float = 0.0
    projects: bool = False
    rules: tuple[Rule, ...] = ()

    def infer(self, shapes: StateShapes, hints: Hints) -> ViTConfig:
        """Architecture of an encoder, from the shapes of its state dict."""
        dim, _, patch, _ = shapes.read("patch_embed.proj.weight", (1024, 3, 14, 14))
        grid, class_pos_embed = (0, False) if self.rotary_base else _positions(shapes, dim)
        gates = [name for name in ("w12", "w1") if f"blocks.0.mlp.{name}.bias" in shapes]
        up = f"blocks.0.mlp.{(*gates, 'fc1')[0]}.bias"
        parts = 2 if gates == ["w12"] else 1
        mlp_hidden = shapes.read(up, (4 * dim * parts,))[0] // parts
        registers = [name for name in ("reg_token", "storage_tokens") if name in shapes]
        projects = self.projects and "head.weight" in shapes
        return ViTConfig(
            patch_size=patch,
            hidden_size=dim,
            depth=max(shapes.count(r"blocks\.(\d+)\."), 1),
            num_heads=known_heads(shapes, dim, self.heads, hints),
            mlp_hidden=mlp_hidden,
            pos_embed_grid=grid,
            layer_scale="blocks.0.ls1.gamma" in shapes,
            num_registers=shapes.read(registers[0], (1, 4, dim))[1] if registers else 0,
            class_pos_embed=class_pos_embed,
            use_swiglu=bool(gates),
            class_token=class_pos_embed or "cls_token" in shapes,
            patch_bias="patch_embed.proj.bias" in shapes,
            qkv_bias="blocks.0.attn.qkv.bias" in shapes,
            norm_pre="norm_pre.weight" in shapes,
            norm_eps=self.norm_eps,
            activation=hints.act_fn or self.activations.get(dim, self.activation),
            rotary_base=self.rotary_base,
            attention_pool="attn_pool.latent" in shapes,
            projection=shapes.read("head.weight", (768, dim))[0] if projects else 0,
        )

    def keymap(self, config: ViTConfig) -> KeyMap:
        """Table of an encoder."""
        buffers = {}
        if config.projection:  # timm's has a bias, CLIP has none
            buffers["head.bias"] = np.zeros(config.projection, np.float32)
        return KeyMap((*self.rules, *_rules(config)), buffers, self.ignored)


def _positions(shapes: StateShapes, dim: int) -> tuple[int, bool]:
    """Side of the position table's grid, and whether it has a row for the class token."""
    rows = shapes.read("pos_embed", (1, 1 + 37**2, dim))[1]
    grid = math.isqrt(rows)
    class_pos_embed = grid**2 != rows
    if grid**2 + class_pos_embed != rows:
        shapes.note(
            "pos_embed",
            f"wrong shape: pos_embed {shapes['pos_embed']}, expected a square of rows, or one more",
        )
    return grid, class_pos_embed


def _rules(config: ViTConfig) -> tuple[Rule, ...]:
    return (
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
        Rule("attn_pool.latent", "attn_pool/latent", Same(leading=2)),
        Rule("attn_pool.proj.weight", "attn_pool/proj/kernel", Linear(in_axes=2)),
        Rule("{0}.weight", "(head|attn_pool/.+)/kernel", Linear()),
        Rule("{0}.weight", "(norm|norm_pre|attn_pool/norm)/scale", Flat()),
        Rule("{0}.bias", "(norm|norm_pre|attn_pool/.+)/bias", Flat()),
    )


# By width: DINOv2's four sizes, timm's ViTs, and MAE's ViT-H/14, whose heads are 80 wide.
PLAIN = Family(
    {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1536: 24}, (*_PRETRAINING, *_CLASSIFIER)
)
DINOV3 = Family(
    {384: 6, 768: 12, 1024: 16, 1280: 20, 4096: 32},
    (*_PRETRAINING, *_CLASSIFIER, *_ROTARY),
    norm_eps=1e-5,
    rotary_base=100.0,
    rules=(  # as its authors call what timm calls otherwise, and reads
        Rule("storage_tokens", "reg_token", Same(leading=1)),
        Rule("blocks.{L}.mlp.{P}.weight", "blocks/mlp/w12/kernel", Linear(), ("w1", "w2")),
        Rule("blocks.{L}.mlp.{P}.bias", "blocks/mlp/w12/bias", Flat(), ("w1", "w2")),
    ),
)
# All sizes were trained with JAX's GELU, the approximation by tanh.
SIGLIP2 = Family({768: 12, 1024: 16, 1152: 16, 1536: 16}, _TEXT, activation="gelu_tanh")
# OpenAI's B and L have their own GELU; the larger ones are open_clip's, with PyTorch's.
CLIP = Family(
    {768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16},
    _TEXT,
    norm_eps=1e-5,
    activation="quick_gelu",
    activations=dict.fromkeys((1280, 1408, 1664), "gelu"),
    projects=True,
)
