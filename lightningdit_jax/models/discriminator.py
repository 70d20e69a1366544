"""PatchGAN: tells real patches of images from reconstructed ones. Isola et al. 2017."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from lightningdit_jax.errors import unknown_name

NORMS = ("batchnorm", "actnorm")


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Architecture. ndf: channels of the first layer. Raises ValueError for values out of range."""

    in_channels: int
    ndf: int
    num_layers: int
    norm: str

    def __post_init__(self):
        for name in ("in_channels", "ndf", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.norm not in NORMS:
            raise ValueError(unknown_name("norm", self.norm, NORMS))


class BatchNorm(nnx.Module):
    """Batch normalization with PyTorch's statistics. [B, H, W, C] -> the same, float32.

    In training it normalizes with the batch's mean and biased variance and moves the running ones
    by a tenth, the variance unbiased. stat_groups: equal parts of the batch that are normalized
    each by itself, as on devices that do not talk; the running statistics see their average.
    """

    def __init__(self, channels: int, *, stat_groups: int, rngs: nnx.Rngs):
        self.stat_groups = stat_groups
        noise = jax.random.normal(rngs.params(), (channels,), jnp.float32)
        self.scale = nnx.Param(1.0 + 0.02 * noise)
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(channels, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(channels, jnp.float32))
        self.count = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.astype(jnp.float32)
        if not train:
            return self._normalize(x, self.mean[...], self.var[...])
        if len(x) % self.stat_groups:
            raise ValueError(
                f"a batch of {len(x)} images cannot be normalized in {self.stat_groups} groups; "
                "choose a stat_groups that divides it"
            )
        groups = x.reshape(self.stat_groups, len(x) // self.stat_groups, *x.shape[1:])
        mean = groups.mean((1, 2, 3), keepdims=True)
        var = jnp.square(groups - mean).mean((1, 2, 3), keepdims=True)
        numel = groups[0, ..., 0].size
        self._track(mean, var * (numel / max(numel - 1, 1)))
        return self._normalize(groups, mean, var).reshape(x.shape)

    def _track(self, mean: jax.Array, var: jax.Array) -> None:
        for running, batch in ((self.mean, mean), (self.var, var)):
            batch = jax.lax.stop_gradient(batch).reshape(self.stat_groups, -1).mean(0)
            running[...] = 0.9 * running[...] + 0.1 * batch
        self.count[...] = self.count[...] + 1

    def _normalize(self, x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
        return (x - mean) * jax.lax.rsqrt(var + 1e-5) * self.scale[...] + self.bias[...]


class ActNorm(nnx.Module):
    """scale (x + loc), both learned. Kingma & Dhariwal 2018. [B, H, W, C] -> the same.

    Starts as the identity: the initialization from a first batch is not done.
    """

    def __init__(self, channels: int):
        self.loc = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.scale[...] * (x.astype(jnp.float32) + self.loc[...])


class Discriminator(nnx.Module):
    """Logits of patches, positive for real ones. Parameters float32; dtype of convolutions.

    Running statistics are nnx.BatchStat variables that a call in training assigns to.
    """

    def __init__(
        self,
        config: DiscriminatorConfig,
        *,
        stat_groups: int = 1,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.config, self.dtype = config, np.dtype(dtype)
        hidden = [config.ndf * min(2**i, 8) for i in range(config.num_layers + 1)]
        widths = [config.in_channels, *hidden, 1]
        last = len(widths) - 2

        def conv(layer: int) -> nnx.Conv:
            return nnx.Conv(
                widths[layer],
                widths[layer + 1],
                (4, 4),
                2 if layer < config.num_layers else 1,
                padding=((1, 1), (1, 1)),
                # Batch normalization takes a bias away.
                use_bias=layer in (0, last) or config.norm == "actnorm",
                dtype=self.dtype,
                kernel_init=nnx.initializers.normal(0.02),
                rngs=rngs,
            )

        def norm(channels: int) -> nnx.Module:
            if config.norm == "actnorm":
                return ActNorm(channels)
            return BatchNorm(channels, stat_groups=stat_groups, rngs=rngs)

        self.convs = nnx.List([conv(layer) for layer in range(last + 1)])
        self.norms = nnx.List([norm(channels) for channels in hidden[1:]])

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits. x: [B, H, W, C] in [-1, 1] -> [B, h, w, 1] float32.

        train: normalize with the batch's statistics and move the running ones.
        """
        x = nnx.leaky_relu(self.convs[0](x), 0.2)
        for conv, norm in zip(self.convs[1:-1], self.norms):
            x = nnx.leaky_relu(norm(conv(x), train=train), 0.2)
        return self.convs[-1](x).astype(jnp.float32)
