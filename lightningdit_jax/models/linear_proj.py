"""VA-VAE's projection between latents and features of the vision foundation model."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class LinearProjConfig:
    """Channels in and out; from latents to features under `reverse_proj`, the published setting."""

    in_features: int
    out_features: int


class LinearProj(nnx.Module):
    """x W, without a bias. Yao et al. 2025, eq. 5. [..., in] -> [..., out]."""

    def __init__(self, config: LinearProjConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config, self.dtype = config, dtype
        limit = config.in_features**-0.5  # PyTorch's default for a convolution
        shape = (config.in_features, config.out_features)
        self.kernel = nnx.Param(
            jax.random.uniform(rngs.params(), shape, jnp.float32, -limit, limit)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.astype(self.dtype) @ self.kernel[...].astype(self.dtype)
