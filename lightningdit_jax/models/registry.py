"""The models a checkpoint can hold, by kind: each a config and a module made from it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from lightningdit_jax.errors import unknown_name
from lightningdit_jax.models.discriminator import Discriminator, DiscriminatorConfig
from lightningdit_jax.models.inception import Inception, InceptionConfig
from lightningdit_jax.models.lightningdit import LightningDiT, LightningDiTConfig
from lightningdit_jax.models.linear_proj import LinearProj, LinearProjConfig
from lightningdit_jax.models.lpips import LPIPS, LPIPSConfig
from lightningdit_jax.models.vae import VAVAE, VAVAEConfig
from lightningdit_jax.models.vit import ViT, ViTConfig


@dataclasses.dataclass(frozen=True)
class Model:
    """config(**fields) is an architecture, module(config, dtype=..., rngs=...) a network."""

    config: Callable[..., Any]
    module: Callable[..., nnx.Module]


MODELS = {
    "lightningdit": Model(LightningDiTConfig, LightningDiT),
    "vavae": Model(VAVAEConfig, VAVAE),
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
