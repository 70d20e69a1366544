"""What SigLIP 2's attention pools, as a network that distances are measured in."""

from lightningdit_jax.inference.quality.network import EvaluationNetwork
from lightningdit_jax.inference.quality.vision_transformers import pooled
from lightningdit_jax.models.foundation import HALF

_SIDE = 224  # of a network that was trained at 256: its position table is resampled
_IDENTITY = {
    "network": "siglip2",
    "resize": f"bicubic-antialias-{_SIDE}",
    "pixels": "half",
    "pooling": "attention",
}

# As nanogen-evals and FD-loss have it.
NETWORKS = {"siglip2": EvaluationNetwork("siglip2", pooled(_SIDE, HALF), _IDENTITY, 0.60)}
