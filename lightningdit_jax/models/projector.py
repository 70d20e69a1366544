"""REPA's projector from a generator's tokens to the features of a vision model."""

import dataclasses
import itertools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from lightningdit_jax.models.layers import linear


@dataclasses.dataclass(frozen=True)
class ProjectorConfig:
    """Widths of tokens and features. hidden: of the MLP, 0 of a convolution."""

    in_features: int
    out_features: int
    kind: Literal["mlp", "conv"]
    hidden: int


class Projector(nnx.Module):
    """Tokens of a square grid to features. [B, N, D] -> [B, N, out_features].

    "mlp": three linear layers with SiLU between (Yu et al. 2024, arXiv 2410.06940, appendix A);
    "conv": one convolution of 3x3 tokens, zeros around (Singh et al. 2025, arXiv 2512.10794, sec.
    4). Weights begin as in the authors' code: Xavier's, and PyTorch's default of a convolution.
    """

    def __init__(self, config: ProjectorConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        widths = (config.in_features, config.hidden, config.hidden, config.out_features)
        if config.kind == "mlp":
            self.fc1, self.fc2, self.fc3 = (
                linear(a, b, dtype=dtype, rngs=rngs) for a, b in itertools.pairwise(widths)
            )
            return
        limit = (9 * config.in_features) ** -0.5

        def uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32):
            return jax.random.uniform(key, shape, dtype, -limit, limit)

        self.conv = nnx.Conv(
            config.in_features,
            config.out_features,
            (3, 3),
            kernel_init=uniform,
            bias_init=uniform,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, tokens: jax.Array) -> jax.Array:
        if self.config.kind == "mlp":
            return self.fc3(nnx.silu(self.fc2(nnx.silu(self.fc1(tokens)))))
        batch, count, width = tokens.shape
        side = round(count**0.5)
        return self.conv(tokens.reshape(batch, side, side, width)).reshape(batch, count, -1)
