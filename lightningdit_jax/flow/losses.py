"""Flow matching losses."""

import jax
import jax.numpy as jnp

COSINE_EPS = 1e-8  # torch.nn.functional.cosine_similarity's default, which the release uses


def _norm(x: jax.Array) -> jax.Array:
    """Norm over the last axis, at least COSINE_EPS. [..., C] -> [..., 1]."""
    # Clamping before the root keeps the gradient finite where x is exactly 0, as it is everywhere
    # at the first step of a model whose output layer starts at zero.
    return jnp.sqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), COSINE_EPS**2))


def cosine_similarity(a: jax.Array, b: jax.Array) -> jax.Array:
    """Along the last axis, each norm at least COSINE_EPS. [..., C] twice -> [...]."""
    return jnp.sum(a / _norm(a) * (b / _norm(b)), -1)


def flow_loss(prediction: jax.Array, target: jax.Array) -> dict[str, jax.Array]:
    """Velocity losses per sample in float32. prediction, target: [B, ..., C] -> {name: [B]}.

    "mse": mean squared error over everything but the batch.
    "cosine": mean over positions of 1 - cosine similarity along the channels (the last axis), with
    torch's semantics: each norm is at least 1e-8. At an exactly zero prediction its gradient is
    finite but as large as 1e8 / positions, as in the release.
    Yao et al. 2025, sec. 4: the loss is their sum (the release logs the first alone).
    Raises ValueError if the shapes differ.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction has shape {prediction.shape} and target {target.shape}; expected the same"
        )
    prediction, target = prediction.astype(jnp.float32), target.astype(jnp.float32)
    similarity = cosine_similarity(prediction, target)
    return {
        "mse": jnp.mean((prediction - target) ** 2, axis=range(1, target.ndim)),
        "cosine": jnp.mean(1 - similarity, axis=range(1, target.ndim - 1)),
    }
