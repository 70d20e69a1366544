"""What the tokenizer is aligned with: features of a frozen vision foundation model."""

import jax
import jax.numpy as jnp

from lightningdit_jax.models.vit import ViT, resize_bilinear

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def foundation_features(
    model: ViT, images: jax.Array, grid: tuple[int, int], normalise: str
) -> jax.Array:
    """Patch features on the grid of the latents. [B, H, W, 3] in [-1, 1] -> [B, h, w, D].

    Images are resized to a patch a position: 256 to 224 for DINOv2 (patch 14) and not at all for
    MAE (patch 16) under 16-fold compression. normalise: "parity" shows [-1, 1] as the release
    does, "imagenet" the mean and deviation that these models were trained with. No gradient.
    """
    if normalise == "imagenet":
        mean, std = jnp.asarray(IMAGENET_MEAN), jnp.asarray(IMAGENET_STD)
        images = ((images + 1.0) / 2.0 - mean) / std
    patch = model.config.patch_size
    resized = resize_bilinear(images, (grid[0] * patch, grid[1] * patch))
    return jax.lax.stop_gradient(model(resized))
