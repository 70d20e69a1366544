"""The class token of CLIP's image tower, as a network that distances are measured in."""

import dataclasses

import jax
from flax import nnx

from lightningdit_jax.assembly.registry import abstract_model
from lightningdit_jax.inference.quality.network import EvaluationNetwork
from lightningdit_jax.inference.quality.vision_transformers import pooled
from lightningdit_jax.models.foundation import OPENAI_CLIP
from lightningdit_jax.models.vit import ViT

_SIDE = 256
_IDENTITY = {
    "network": "clip-with-gelu",
    "resize": f"bicubic-antialias-{_SIDE}-zero-padded",
    "pixels": "clip",
    "pooling": "class-token",
}
_class_token = pooled(_SIDE, OPENAI_CLIP)


def _features(module: ViT, images: jax.Array) -> jax.Array:
    """With PyTorch's GELU, whatever the network was trained with.

    nanogen-evals and FD-loss run timm's vit_large_patch14_clip_224.openai, which has that instead
    of OpenAI's own; FDr6's scale and its statistics are of it.
    """
    config = dataclasses.replace(module.config, activation="gelu")
    graphdef, _ = abstract_model("clip", config, module.dtype)
    return _class_token(nnx.merge(graphdef, nnx.state(module)), images)


# Of every CLIP that is not CMMD's, which comes before it among all rows.
NETWORKS = {"clip": EvaluationNetwork("clip", _features, _IDENTITY, 5.60)}
