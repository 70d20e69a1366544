"""The models a checkpoint can hold, by kind: config, module, and how its weights are sharded.

In the tables of (path pattern, spec) blocks are stacked over depth (a leading axis L that is never
sharded). D is the model width, H heads, F the MLP's hidden width.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

from lightningdit_jax.errors import unknown_name
from lightningdit_jax.models.discriminator import Discriminator, DiscriminatorConfig
from lightningdit_jax.models.inception import Inception, InceptionConfig
from lightningdit_jax.models.lightningdit import LightningDiT, LightningDiTConfig
from lightningdit_jax.models.linear_proj import LinearProj, LinearProjConfig
from lightningdit_jax.models.lpips import LPIPS, LPIPSConfig
from lightningdit_jax.models.vae import VAVAE, VAVAEConfig
from lightningdit_jax.models.vit import ViT, ViTConfig
from lightningdit_jax.parallel.sharding import Rules

# "fsdp" cuts the axis of width D of every block kernel. "tensor" follows Megatron (Shoeybi et al.
# 2019): heads and F are cut in the column-parallel qkv and w12, and summed over in proj and w3.
# Embeddings and the final layer are replicated: sharding them only adds stray collectives.
LIGHTNINGDIT_RULES: Rules = (
    (r"(^|/)blocks/attn/qkv/kernel$", P(None, "fsdp", None, "tensor", None)),  # [L, D, 3, H, hd]
    (r"(^|/)blocks/attn/qkv/bias$", P(None, None, "tensor", None)),  # [L, 3, H, hd]
    (r"(^|/)blocks/attn/proj/kernel$", P(None, "tensor", None, "fsdp")),  # [L, H, hd, D]
    (r"(^|/)blocks/mlp/w12/kernel$", P(None, "fsdp", None, "tensor")),  # [L, D, 2, F]
    (r"(^|/)blocks/mlp/w12/bias$", P(None, None, "tensor")),  # [L, 2, F]
    (r"(^|/)blocks/mlp/fc1/kernel$", P(None, "fsdp", "tensor")),  # [L, D, F]
    (r"(^|/)blocks/mlp/fc1/bias$", P(None, "tensor")),  # [L, F]
    (r"(^|/)blocks/mlp/(w3|fc2)/kernel$", P(None, "tensor", "fsdp")),  # [L, F, D]
    (r"(^|/)blocks/adaLN_modulation/kernel$", P(None, "fsdp")),  # [L, D, 6 or 4, D]
    (r"(^|/)blocks/(attn/proj|mlp/w3|mlp/fc2|adaLN_modulation)/bias$", P()),
    (r"(^|/)blocks/(norm[12]|attn/[qk]_norm)/(scale|bias)$", P()),
    (r"(^|/)([xty]_embedder|final_layer)/", P()),
    (r"(^|/)pos_embed$", P()),
)

# The autoencoder is small (70 M parameters): its convolution kernels alone are worth sharding.
VAVAE_RULES: Rules = (
    (r"(^|/)(q|k|v|proj_out)/kernel$", P(None, "fsdp")),
    (r"(^|/)kernel$", P(None, None, None, "fsdp")),  # [kh, kw, in, out]
    (r"(^|/)(bias|scale)$", P()),
)

# Of what is never trained, or small. Nearly all of a ViT-L's 300 M parameters are in the kernels of
# its blocks.
OTHER_RULES: Rules = (
    (r"(^|/)blocks/attn/proj/kernel$", P(None, None, None, "fsdp")),  # [L, H, hd, D]
    (r"(^|/)blocks/.*kernel$", P(None, "fsdp")),  # [L, in, ...]
    (r"", P()),
)


@dataclasses.dataclass(frozen=True)
class Model:
    """config(**fields) is an architecture, module(config, dtype=..., rngs=...) a network."""

    config: Callable[..., Any]
    module: Callable[..., nnx.Module]
    rules: Rules = OTHER_RULES


MODELS = {
    "lightningdit": Model(LightningDiTConfig, LightningDiT, LIGHTNINGDIT_RULES),
    "vavae": Model(VAVAEConfig, VAVAE, VAVAE_RULES),
    "dinov2": Model(ViTConfig, ViT),
    "mae": Model(ViTConfig, ViT),
    "vit": Model(ViTConfig, ViT),
    "lpips": Model(LPIPSConfig, LPIPS),
    "discriminator": Model(DiscriminatorConfig, Discriminator),
    "inception": Model(InceptionConfig, Inception),
    "linear_proj": Model(LinearProjConfig, LinearProj),
}


def architecture(kind: str, fields: Mapping[str, Any]) -> Any:
    """The config of a kind from its fields. Raises ValueError for an unknown kind."""
    if kind not in MODELS:
        raise ValueError(unknown_name("kind of checkpoint", kind, tuple(MODELS)))
    return MODELS[kind].config(**fields)


def abstract_model(
    kind: str, config: Any, dtype: Any = jnp.float32, **options: Any
) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """Structure and state of a model, ShapeDtypeStructs for leaves: parameters and statistics.

    options: further arguments of its module.
    """
    module = MODELS[kind].module
    abstract = nnx.eval_shape(
        lambda: module(config, dtype=np.dtype(dtype), rngs=nnx.Rngs(0), **options)
    )
    graphdef, state = nnx.split(abstract, (nnx.Param, nnx.BatchStat))
    return graphdef, nnx.to_pure_dict(state)
