"""The models a checkpoint can hold, by kind: what each is made of, and what it can be used as.

In the tables of (path pattern, spec) blocks are stacked over depth (a leading axis L that is never
sharded). D is the model width, H heads, F the MLP's hidden width.
"""

import dataclasses
import enum
import functools
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lightningdit_jax.assembly.models import generator_options
from lightningdit_jax.config import ComputeConfig
from lightningdit_jax.config_fields import is_of_type
from lightningdit_jax.errors import one_line, unknown_name
from lightningdit_jax.models.convnext import CONVNEXTV2_BASE, ConvNeXtV2, ConvNeXtV2Config
from lightningdit_jax.models.discriminator import Discriminator, DiscriminatorConfig
from lightningdit_jax.models.foundation import HALF, IMAGENET, OPENAI_CLIP, Normalization
from lightningdit_jax.models.inception import Inception, InceptionConfig
from lightningdit_jax.models.lightningdit import LightningDiT, LightningDiTConfig
from lightningdit_jax.models.linear_proj import LinearProj, LinearProjConfig
from lightningdit_jax.models.lpips import LPIPS, LPIPSConfig
from lightningdit_jax.models.rngs import CountedRngs
from lightningdit_jax.models.vae import VAVAE, VAVAEConfig
from lightningdit_jax.models.vit import ViT
from lightningdit_jax.models.vit_config import (
    CLIP_LARGE,
    DINOV2_LARGE,
    DINOV3_LARGE,
    MAE_LARGE,
    SIGLIP2_SO400M,
    ViTConfig,
)
from lightningdit_jax.parallel.sharding import Rules

# "fsdp" cuts the axis of width D of every block kernel. "tensor" follows Megatron (Shoeybi et al.
# 2019): heads and F are cut in the column-parallel qkv and w12, and summed over in proj and w3.
# Embeddings and the final layers are replicated: sharding them only adds stray collectives.
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
    (r"(^|/)([xty]_embedder|final_layer|aux_head)/", P()),
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
    (r"(^|/)blocks/mlp/(fc2|w3)/kernel$", P(None, None, "fsdp")),  # [L, F, D]; D divides more often
    (r"(^|/)blocks/.*kernel$", P(None, "fsdp")),  # [L, in, ...]
    (r"", P()),
)

# Most of ConvNeXt V2 is in the two matrices of its blocks.
CONVNEXTV2_RULES: Rules = (
    (r"(^|/)blocks/fc1/kernel$", P(None, None, "fsdp")),  # [L, D, F]
    (r"(^|/)blocks/fc2/kernel$", P(None, "fsdp")),  # [L, F, D]
    (r"", P()),
)


class Role(enum.Enum):
    """What a model can be used as, and so what its module has to offer beside its weights.

    A generator is called as LightningDiT is and says `flow` and `latent_scaling` of itself; a
    tokenizer is a models.tokenizer.Tokenizer, a foundation model a
    models.foundation.FoundationModel.
    """

    GENERATOR = "generator"
    TOKENIZER = "tokenizer"
    FOUNDATION = "foundation model"


def _no_options(compute: ComputeConfig, architecture: Any, mesh: Mesh) -> dict[str, Any]:
    return {}


@dataclasses.dataclass(frozen=True)
class Model:
    """config(**fields) is an architecture, module(config, dtype=..., rngs=...) a network.

    published: the architecture that is meant where no checkpoint says one, None where there is no
    such. normalization: of the pixels that a foundation model was trained on, None where nobody
    knows. options(compute, architecture, mesh): arguments of the module that change its speed.
    """

    config: Callable[..., Any]
    module: Callable[..., nnx.Module]
    rules: Rules = OTHER_RULES
    role: Role | None = None
    published: Any = None
    normalization: Normalization | None = None
    options: Callable[[ComputeConfig, Any, Mesh], dict[str, Any]] = _no_options


MODELS = {
    "lightningdit": Model(
        LightningDiTConfig,
        LightningDiT,
        LIGHTNINGDIT_RULES,
        Role.GENERATOR,
        options=generator_options,
    ),
    "vavae": Model(VAVAEConfig, VAVAE, VAVAE_RULES, Role.TOKENIZER),
    "dinov2": Model(
        ViTConfig, ViT, role=Role.FOUNDATION, published=DINOV2_LARGE, normalization=IMAGENET
    ),
    "mae": Model(ViTConfig, ViT, role=Role.FOUNDATION, published=MAE_LARGE, normalization=IMAGENET),
    "dinov3": Model(
        ViTConfig, ViT, role=Role.FOUNDATION, published=DINOV3_LARGE, normalization=IMAGENET
    ),
    "siglip2": Model(
        ViTConfig, ViT, role=Role.FOUNDATION, published=SIGLIP2_SO400M, normalization=HALF
    ),
    "clip": Model(
        ViTConfig, ViT, role=Role.FOUNDATION, published=CLIP_LARGE, normalization=OPENAI_CLIP
    ),
    "convnextv2": Model(
        ConvNeXtV2Config,
        ConvNeXtV2,
        CONVNEXTV2_RULES,
        Role.FOUNDATION,
        published=CONVNEXTV2_BASE,
        normalization=IMAGENET,
    ),
    "vit": Model(ViTConfig, ViT, role=Role.FOUNDATION),  # anyone's own
    "lpips": Model(LPIPSConfig, LPIPS, published=LPIPSConfig()),
    "discriminator": Model(DiscriminatorConfig, Discriminator),
    "inception": Model(InceptionConfig, Inception),
    "linear_proj": Model(LinearProjConfig, LinearProj),
}


def model_of(kind: str) -> Model:
    """The entry of a kind. Raises ValueError for an unknown one."""
    if kind not in MODELS:
        raise ValueError(unknown_name("kind of checkpoint", kind, tuple(MODELS)))
    return MODELS[kind]


def kinds_of(role: Role) -> tuple[str, ...]:
    """The kinds that can be used so."""
    return tuple(kind for kind, model in MODELS.items() if model.role is role)


def architecture(kind: str, fields: Mapping[str, Any]) -> Any:
    """The config of a kind from its fields. Raises ValueError for an unknown kind or field."""
    model = model_of(kind)
    try:
        hints = typing.get_type_hints(model.config)
        for name, value in fields.items():
            if name in hints and not is_of_type(value, hints[name]):
                raise TypeError(f"{name} is {value!r:.40}")
        return model.config(**fields)
    except TypeError as error:
        raise ValueError(
            f"a checkpoint says what is no architecture of a {kind}: {one_line(error)}"
        ) from error


def compute_options(kind: str, config: Any, compute: ComputeConfig, mesh: Mesh) -> dict[str, Any]:
    """Arguments of a kind's module that training and all other jobs take from a config alike.

    config: its architecture. Raises ValueError for what the devices of the mesh do not have.
    """
    options = MODELS[kind].options(compute, config, mesh)
    return {"dtype": jnp.dtype(compute.dtype), **options}


def abstract_model(
    kind: str, config: Any, dtype: Any = jnp.float32, **options: Any
) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """Structure and state of a model, ShapeDtypeStructs for leaves: parameters and statistics.

    options: further arguments of its module.
    """
    graphdef, state = _abstract(
        MODELS[kind].module, config, np.dtype(dtype), tuple(sorted(options.items()))
    )
    return graphdef, nnx.to_pure_dict(state)


@functools.lru_cache(maxsize=32)
def _abstract(
    module: Callable[..., nnx.Module], config: Any, dtype: Any, options: tuple[tuple[str, Any], ...]
) -> tuple[nnx.GraphDef, nnx.State]:
    """Kept, since tracing a module takes a fifth of a second and a start asks several times."""
    abstract = nnx.eval_shape(
        lambda: module(config, dtype=dtype, rngs=CountedRngs(0), **dict(options))
    )
    return nnx.split(abstract, (nnx.Param, nnx.BatchStat))
