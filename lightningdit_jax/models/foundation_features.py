"""Features of a frozen vision foundation model, which latents and tokens are aligned with."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from lightningdit_jax.models.foundation import FoundationModel, Normalization
from lightningdit_jax.models.vit import resize_bilinear


def foundation_features(
    model: FoundationModel,
    images: jax.Array,
    grid: tuple[int, int],
    normalization: Normalization | None,
    resize: Callable[[jax.Array, tuple[int, int]], jax.Array] = resize_bilinear,
) -> jax.Array:
    """Patch features on a grid. [B, H, W, 3] in [-1, 1] -> [B, h, w, D].

    Images are resized to a patch a position: 256 to 224 for DINOv2 (patch 14) and not at all for
    MAE (patch 16) on a grid of 16. normalization: of pixels; None shows [-1, 1] as VA-VAE's release
    does. No gradient.
    """
    if normalization is not None:
        mean, std = map(jnp.asarray, normalization)
        images = ((images + 1.0) / 2.0 - mean) / std
    patch = model.config.patch_size
    resized = resize(images, (grid[0] * patch, grid[1] * patch))
    features = jax.lax.stop_gradient(model(resized))
    chex.assert_shape(features, (len(images), *grid, model.config.hidden_size))
    return features
