"""LightningDiT: the release's state dict, and that of Internal Guidance's generators."""

import math

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
from lightningdit_jax.models.embeddings import rotary_tables
from lightningdit_jax.models.lightningdit_config import VARIANTS, LightningDiTConfig
from lightningdit_jax.square import REASON

SIGN = "x_embedder.proj.weight"
# The second head, as CVL-UESTC/Internal-Guidance names it, and after which block that has it in
# its published model, by depth and width: no tensor says it.
_AUX_HEAD = "final_layer_xr"
_PUBLISHED_AUX_HEAD = {(28, 1152): 8}


def keymap(config: LightningDiTConfig) -> KeyMap:
    """Table of the release's LightningDiT."""
    buffers = {}
    if config.use_rope:
        cos, sin = rotary_tables(config.grid, config.head_dim)
        buffers = {"feat_rope.freqs_cos": cos, "feat_rope.freqs_sin": sin}
    rules = (
        Rule("x_embedder.proj.weight", "x_embedder/kernel", PatchConv(config.patch_size)),
        Rule("x_embedder.proj.bias", "x_embedder/bias", Flat()),
        Rule("t_embedder.mlp.0.weight", "t_embedder/fc1/kernel", Linear()),
        Rule("t_embedder.mlp.0.bias", "t_embedder/fc1/bias", Flat()),
        Rule("t_embedder.mlp.2.weight", "t_embedder/fc2/kernel", Linear()),
        Rule("t_embedder.mlp.2.bias", "t_embedder/fc2/bias", Flat()),
        Rule("y_embedder.embedding_table.weight", "y_embedder/embedding", Same()),
        Rule("pos_embed", "pos_embed", Same(leading=1)),
        Rule("blocks.{L}.adaLN_modulation.1.weight", "blocks/adaLN_modulation/kernel", Linear()),
        Rule("blocks.{L}.adaLN_modulation.1.bias", "blocks/adaLN_modulation/bias", Flat()),
        Rule("blocks.{L}.attn.proj.weight", "blocks/attn/proj/kernel", Linear(in_axes=2)),
        Rule("blocks.{L}.{0}.weight", "blocks/(.+)/kernel", Linear()),
        Rule("blocks.{L}.{0}.weight", "blocks/(.+)/scale", Flat()),
        Rule("blocks.{L}.{0}.bias", "blocks/(.+)/bias", Flat()),
        *_final_layer_rules("final_layer", "final_layer"),
        *_final_layer_rules(_AUX_HEAD, "aux_head"),
    )
    return KeyMap(rules, buffers)


def _final_layer_rules(torch: str, ours: str) -> tuple[Rule, ...]:
    modulation = f"{torch}.adaLN_modulation.1"
    return (
        Rule(f"{modulation}.weight", f"{ours}/adaLN_modulation/kernel", Linear()),
        Rule(f"{modulation}.bias", f"{ours}/adaLN_modulation/bias", Flat()),
        Rule(f"{torch}.linear.weight", f"{ours}/linear/kernel", Linear()),
        Rule(f"{torch}.linear.bias", f"{ours}/linear/bias", Flat()),
        Rule(f"{torch}.norm_final.weight", f"{ours}/norm_final/scale", Flat()),
    )


def infer(shapes: StateShapes, hints: Hints) -> LightningDiTConfig:
    """Architecture of a LightningDiT, from the shapes of its state dict.

    class_dropout_prob is not in the weights: 0.1 as published, 0 without a null class.
    """
    # Many tensors tell the width, so that one that disagrees is found rather than believed.
    widths = {
        "x_embedder.proj.weight": 0,
        "x_embedder.proj.bias": 0,
        "pos_embed": 2,
        "t_embedder.mlp.0.bias": 0,
        "t_embedder.mlp.2.bias": 0,
        "y_embedder.embedding_table.weight": 1,
        "blocks.0.attn.proj.bias": 0,
        "final_layer.linear.weight": 1,
    }
    dim = shapes.most_common(widths, 1152)
    (out,) = shapes.read("final_layer.linear.bias", (32,))
    _, channels, patch, _ = shapes.read("x_embedder.proj.weight", (dim, out, 1, 1))
    use_rope = "feat_rope.freqs_cos" in shapes
    rope_tokens = shapes.read("feat_rope.freqs_cos", (256, 64))[0] if use_rope else 256
    tokens = shapes.read("pos_embed", (1, rope_tokens, dim))[1]
    grid = math.isqrt(tokens)
    if grid**2 != tokens:
        shapes.note(
            "pos_embed",
            f"wrong shape: pos_embed {shapes['pos_embed']}, expected a square of tokens: {REASON}",
        )
    use_swiglu = "blocks.0.mlp.fc1.bias" not in shapes
    if use_swiglu:
        mlp_hidden = shapes.read("blocks.0.mlp.w12.bias", (2 * int(8 / 3 * dim),))[0] // 2
    else:
        (mlp_hidden,) = shapes.read("blocks.0.mlp.fc1.bias", (4 * dim,))
    (modulation,) = shapes.read("blocks.0.adaLN_modulation.1.bias", (6 * dim,))
    labels, _ = shapes.read("y_embedder.embedding_table.weight", (1001, dim))
    depth = max(shapes.count(r"blocks\.(\d+)\."), 1)
    return LightningDiTConfig(
        input_size=grid * patch,
        patch_size=patch,
        in_channels=channels,
        hidden_size=dim,
        depth=depth,
        num_heads=_infer_heads(shapes, dim, hints),
        mlp_ratio=_infer_mlp_ratio(shapes, dim, mlp_hidden, use_swiglu),
        num_classes=labels - hints.null_class,
        class_dropout_prob=0.1 if hints.null_class else 0.0,
        learn_sigma=out == 2 * patch**2 * channels,
        use_qknorm="blocks.0.attn.q_norm.weight" in shapes,
        use_swiglu=use_swiglu,
        use_rope=use_rope,
        use_rmsnorm="blocks.0.norm1.weight" in shapes,
        wo_shift=modulation == 4 * dim,
        aux_head_depth=_infer_aux_head(shapes, dim, depth, hints),
    )


def _infer_aux_head(shapes: StateShapes, dim: int, depth: int, hints: Hints) -> int:
    """The block after which the second head stands, 0 without one."""
    given = hints.aux_head_depth
    if not any(key.startswith(f"{_AUX_HEAD}.") for key in shapes):
        if given is not None:
            shapes.note("aux_head_depth", f"aux_head_depth is {given}, but there is no {_AUX_HEAD}")
        return 0
    after = _PUBLISHED_AUX_HEAD.get((depth, dim)) if given is None else given
    if after is None:
        shapes.note(
            "aux_head_depth",
            f"the weights do not tell after which block {_AUX_HEAD}, the second head of Internal "
            f"Guidance, stands (encoder_depth there); give aux_head_depth (--aux-head-depth), or "
            f"leave it out with --without={_AUX_HEAD}",
        )
    elif not 0 < after < depth:
        shapes.note(
            "aux_head_depth",
            f"aux_head_depth is {after}; expected the number of a block before the last, 1 to "
            f"{depth - 1}",
        )
    else:
        return after
    return min(1, depth - 1)  # stands in


def _infer_heads(shapes: StateShapes, dim: int, hints: Hints) -> int:
    if "feat_rope.freqs_cos" in shapes:
        key, head_dim = "feat_rope.freqs_cos", shapes.read("feat_rope.freqs_cos", (256, dim))[1]
    elif "blocks.0.attn.q_norm.weight" in shapes:
        key = "blocks.0.attn.q_norm.weight"
        (head_dim,) = shapes.read(key, (dim,))
    else:
        published = {v["hidden_size"]: v["num_heads"] for v in VARIANTS.values()}
        return known_heads(shapes, dim, published, hints)
    if dim % head_dim or hints.num_heads not in (None, dim // head_dim):
        shapes.note(key, f"num_heads is {hints.num_heads}, but heads are {head_dim} of {dim} wide")
        return 1
    return dim // head_dim


def _infer_mlp_ratio(shapes: StateShapes, dim: int, mlp_hidden: int, use_swiglu: bool) -> float:
    """The published 4, or the smallest ratio that gives this width after rounding."""
    full = math.ceil(1.5 * mlp_hidden) if use_swiglu else mlp_hidden
    for ratio in (4.0, full / dim, (full + 0.5) / dim):
        hidden = int(dim * ratio)
        if mlp_hidden == (int(2 / 3 * hidden) if use_swiglu else hidden):
            return ratio
    shapes.note("mlp_ratio", f"no mlp_ratio gives an MLP {mlp_hidden} wide")
    return 4.0
