"""The class token of DINOv2 and MAE, as networks that distances are measured in."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lightningdit_jax.inference.quality.network import EvaluationNetwork, normalized_square
from lightningdit_jax.models.foundation import IMAGENET
from lightningdit_jax.models.vit import ViT


def class_token(side: int) -> Callable[[ViT, jax.Array], jax.Array]:
    """features(module, images) of images resized to `side`, zeros added where no patch fits."""

    def features(module: ViT, images: jax.Array) -> jax.Array:
        depth, lacking = module.config.depth, -side % module.config.patch_size
        pixels = normalized_square(images, side, IMAGENET)
        padded = jnp.pad(pixels, ((0, 0), (0, lacking), (0, lacking), (0, 0)))
        tokens = module.with_activations(padded, (depth,))[1][depth]
        return module.norm(tokens[:, 0])

    return features


def _row(kind: str, side: int, padding: str, fd_scale: float) -> EvaluationNetwork:
    identity = {
        "network": kind,
        "resize": f"bicubic-antialias-{side}{padding}",
        "pixels": "imagenet-mean-std",
        "pooling": "class-token-normed",
    }
    return EvaluationNetwork(kind, class_token(side), identity, fd_scale)


# Sides and scales of FDr6, as nanogen-evals and FD-loss have them.
NETWORKS = {
    "dinov2": _row("dinov2", 256, "-zero-padded", 14.19),
    "mae": _row("mae", 224, "", 0.04),
}
