"""The mean of ConvNeXt V2's last stage, as a network that distances are measured in."""

from lightningdit_jax.inference.quality.network import EvaluationNetwork
from lightningdit_jax.inference.quality.vision_transformers import pooled
from lightningdit_jax.models.foundation import IMAGENET

_SIDE = 224
_IDENTITY = {
    "network": "convnextv2",
    "resize": f"bicubic-antialias-{_SIDE}",
    "pixels": "imagenet",
    "pooling": "mean",
}

# As nanogen-evals and FD-loss have it.
NETWORKS = {
    "convnextv2": EvaluationNetwork("convnextv2", pooled(_SIDE, IMAGENET), _IDENTITY, 56.87)
}
