"""The vision model that a generator's tokens are aligned with, and what it is shown (REPA)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from lightningdit_jax.assembly.loading import Loaded, WrongKindError
from lightningdit_jax.assembly.registry import MODELS, Role
from lightningdit_jax.config import ComputeConfig
from lightningdit_jax.models.foundation_features import foundation_features
from lightningdit_jax.models.pixels import to_model_range
from lightningdit_jax.models.vit import resize_bicubic

FEATURES = "features"  # the folder of cached ones, beside the latents


def open_teacher(
    load: Callable[..., Loaded], path: str, key: str, mesh: Mesh, compute: ComputeConfig
) -> Loaded:
    """A foundation model by load_functional, or without its weights by abstract_functional.

    key: that names the path. Raises ValueError naming it for a checkpoint of another kind.
    """
    try:
        return load(path, mesh, expect=Role.FOUNDATION, compute=compute)
    except WrongKindError as error:
        raise ValueError(f"config.{key}: {error}") from error


def make_teacher(teacher: Loaded, grid: int) -> Callable[[Any, jax.Array], jax.Array]:
    """features(params, images [B, H, W, 3] uint8) -> [B, grid, grid, D] float32.

    Pixels are normalized as in the model's training, or stay in [-1, 1] where nobody knows, then
    resized bicubically, as in the code of Yu et al. 2024.
    """
    graphdef, normalization = teacher.graphdef, MODELS[teacher.meta["kind"]].normalization

    def features(params: Any, images: jax.Array) -> jax.Array:
        shown = to_model_range(images)
        model = nnx.merge(graphdef, params)
        return foundation_features(
            model, shown, (grid, grid), normalization, resize_bicubic
        ).astype(jnp.float32)

    return features
