"""The batch norm that stands between a tokenizer that trains and its generator (REPA-E)."""

import jax
import jax.numpy as jnp
from flax import nnx

from lightningdit_jax.latent_scaling import LatentScaling

EPS = 1e-4  # added to the variance, as in the authors' code


class LatentNorm(nnx.Module):
    """Batch normalization without scale and bias. [B, h, w, C] -> the same, float32.

    In training it normalizes with the mean and the biased variance of the batch, over all its
    positions and devices, and moves the running ones by `momentum`, the variance unbiased: as
    PyTorch's BatchNorm2d(affine=False). Leng et al. 2025, arXiv 2504.10483, sec. 3.
    """

    def __init__(self, channels: int, *, momentum: float):
        self.momentum = momentum
        self.mean = nnx.BatchStat(jnp.zeros(channels, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(channels, jnp.float32))

    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
        z = z.astype(jnp.float32)
        if not train:
            return _normalize(z, self.mean[...], self.var[...])
        count = z[..., 0].size
        mean = z.mean((0, 1, 2))
        var = jnp.square(z - mean).mean((0, 1, 2))
        for running, batch in ((self.mean, mean), (self.var, var * (count / max(count - 1, 1)))):
            moved = (1.0 - self.momentum) * running[...] + self.momentum * batch
            running[...] = jax.lax.stop_gradient(moved)
        return _normalize(z, mean, var)


def latent_scaling_of(mean: jax.Array, var: jax.Array) -> LatentScaling:
    """What running statistics [C] make of latents outside of training: (x - mean) / deviation."""
    return LatentScaling.of_arrays(mean, jnp.sqrt(var + EPS))


def _normalize(z: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
    return (z - mean) * jax.lax.rsqrt(var + EPS)
