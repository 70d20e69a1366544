"""Vision transformers as networks that distances are measured in: DINOv2, MAE, and CMMD's CLIP."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lightningdit_jax.inference.quality.network import EvaluationNetwork, normalized_square
from lightningdit_jax.models.foundation import IMAGENET, OPENAI_CLIP, Normalization
from lightningdit_jax.models.vit import ViT
from lightningdit_jax.models.vit_config import ViTConfig

CLIP_SIDE = 336


def pooled(side: int, normalization: Normalization) -> Callable[[ViT, jax.Array], jax.Array]:
    """features(module, images): ViT.pooled of images of `side`, and zeros where no patch fits."""

    def features(module: ViT, images: jax.Array) -> jax.Array:
        lacking = -side % module.config.patch_size
        pixels = normalized_square(images, side, normalization)
        return module.pooled(jnp.pad(pixels, ((0, 0), (0, lacking), (0, lacking), (0, 0))))

    return features


def _embedding(module: ViT, images: jax.Array) -> jax.Array:
    """In the space that CLIP shares with text, of norm 1."""
    found = module.embedding(normalized_square(images, CLIP_SIDE, OPENAI_CLIP))
    return found / jnp.linalg.norm(found, axis=-1, keepdims=True)


def _is_of_cmmd(architecture: ViTConfig) -> bool:
    side = architecture.pos_embed_grid * architecture.patch_size
    return bool(architecture.projection) and side == CLIP_SIDE


def _class_token(kind: str, side: int, padding: str, fd_scale: float) -> EvaluationNetwork:
    identity = {
        "network": kind,
        "resize": f"bicubic-antialias-{side}{padding}",
        "pixels": "imagenet",
        "pooling": "class-token",
    }
    return EvaluationNetwork(kind, pooled(side, IMAGENET), identity, fd_scale)


# Sides and scales of FDr6, as nanogen-evals and FD-loss have them; CMMD as its authors' program.
NETWORKS = {
    "dinov2": _class_token("dinov2", 256, "-zero-padded", 14.19),
    "mae": _class_token("mae", 224, "", 0.04),
    "clip_336": EvaluationNetwork(
        "clip",
        _embedding,
        {
            "network": "clip",
            "resize": f"bicubic-antialias-{CLIP_SIDE}",
            "pixels": "clip",
            "pooling": "embedding-of-norm-1",
        },
        is_of_cmmd=True,
        accepts=_is_of_cmmd,
    ),
}
