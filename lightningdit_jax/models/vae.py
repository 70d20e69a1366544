"""VA-VAE: the autoencoder of latent diffusion (Rombach et al. 2022), as in the release.

Images and latents are NHWC. Vision-foundation alignment (Yao et al. 2025, sec. 3) changes its
training, not its architecture.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from lightningdit_jax.errors import unknown_name
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.group_norm import GroupNorm
from lightningdit_jax.models.posterior import DiagonalGaussian
from lightningdit_jax.models.vae_config import ACTIVATIONS, VAVAEConfig

# What a rematerialized residual block keeps for its backward pass, beside its input and the norms'
# means and deviations: they are small and cost passes. "conv" repeats norms and activations only,
# "block" the first convolution too; the second's output is needed by no gradient.
REMAT_POLICIES: dict[str, Callable[..., Any]] = {
    "conv": jax.checkpoint_policies.save_only_these_names("conv", "norm"),
    "block": jax.checkpoint_policies.save_only_these_names("norm"),
}
REMAT = ("none", *REMAT_POLICIES)


def _fan_in_uniform(fan_in: int) -> nnx.Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for kernels and biases alike."""
    limit = fan_in**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def _conv(
    in_features: int,
    out_features: int,
    size: int,
    *,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
    strides: int = 1,
    padding: str | tuple[tuple[int, int], ...] = "SAME",
) -> nnx.Conv:
    init = _fan_in_uniform(in_features * size**2)
    return nnx.Conv(
        in_features,
        out_features,
        (size, size),
        strides,
        padding=padding,
        dtype=dtype,
        kernel_init=init,
        bias_init=init,
        rngs=rngs,
    )


def _norm(channels: int, groups: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> GroupNorm:
    return GroupNorm(channels, groups, epsilon=1e-6, dtype=dtype, rngs=rngs)


class ResnetBlock(nnx.Module):
    """Norm, activation, convolution, twice, around a shortcut. [B, H, W, in] -> [B, H, W, out]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int = VAVAEConfig.num_groups,
        activation: str = VAVAEConfig.activation,
        dtype: DTypeLike,
        remat: str,
        rngs: nnx.Rngs,
    ):
        self.activation, self.remat = activation, remat
        self.norm1 = _norm(in_channels, groups, dtype=dtype, rngs=rngs)
        self.conv1 = _conv(in_channels, out_channels, 3, dtype=dtype, rngs=rngs)
        self.norm2 = _norm(out_channels, groups, dtype=dtype, rngs=rngs)
        self.conv2 = _conv(out_channels, out_channels, 3, dtype=dtype, rngs=rngs)
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.nin_shortcut = _conv(in_channels, out_channels, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.remat == "none":
            return self._run(x)
        graphdef, state = nnx.split(self)

        def run(state: nnx.State, x: jax.Array) -> jax.Array:
            return nnx.merge(graphdef, state)._run(x)

        return jax.checkpoint(run, policy=REMAT_POLICIES[self.remat])(state, x)

    def _run(self, x: jax.Array) -> jax.Array:
        activation = ACTIVATIONS[self.activation]
        h = checkpoint_name(self.conv1(activation(self.norm1(x))), "conv")
        h = self.conv2(activation(self.norm2(h)))
        return h + (self.nin_shortcut(x) if self.has_shortcut else x)


def _residual(config: VAVAEConfig, **options: Any) -> Callable[[int, int], ResnetBlock]:
    """What makes the residual blocks of an autoencoder, given their channels."""
    return functools.partial(
        ResnetBlock, groups=config.num_groups, activation=config.activation, **options
    )


class AttnBlock(nnx.Module):
    """Self-attention over all positions, one head, with residual. [B, H, W, C] -> the same."""

    def __init__(self, channels: int, *, groups: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm = _norm(channels, groups, dtype=dtype, rngs=rngs)
        init = _fan_in_uniform(channels)

        def project() -> nnx.Linear:
            return nnx.Linear(
                channels, channels, dtype=dtype, kernel_init=init, bias_init=init, rngs=rngs
            )

        self.q, self.k, self.v, self.proj_out = (project() for _ in range(4))

    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.norm(x).reshape(x.shape[0], -1, 1, x.shape[-1])  # [B, N, heads, C]
        h = jax.nn.dot_product_attention(self.q(h), self.k(h), self.v(h))
        return x + self.proj_out(h.reshape(x.shape))


class Downsample(nnx.Module):
    """Halves the side by a strided convolution, padded at the right and the bottom only."""

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        padding = ((0, 1), (0, 1))
        self.conv = _conv(channels, channels, 3, strides=2, padding=padding, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles the side by repeating pixels, then a convolution."""

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = _conv(channels, channels, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x.repeat(2, axis=1).repeat(2, axis=2))


class Level(nnx.Module):
    """Residual blocks of one resolution, each with attention behind it or none, then resampling.

    [B, H, W, in] -> [B, H', W', out]; resample is `downsample`, `upsample` or absent.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        config: VAVAEConfig,
        *,
        attention: bool,
        resample: str | None,
        dtype: DTypeLike,
        remat: str,
        rngs: nnx.Rngs,
    ):
        widths = [in_channels] + [out_channels] * num_blocks
        block = _residual(config, dtype=dtype, remat=remat, rngs=rngs)
        self.block = nnx.List([block(*pair) for pair in itertools.pairwise(widths)])
        attend = functools.partial(
            AttnBlock, out_channels, groups=config.num_groups, dtype=dtype, rngs=rngs
        )
        self.attn = nnx.List([attend() for _ in self.block if attention])
        self.resample = resample
        if resample == "downsample":
            self.downsample = Downsample(out_channels, dtype=dtype, rngs=rngs)
        elif resample == "upsample":
            self.upsample = Upsample(out_channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return x if self.resample is None else getattr(self, self.resample)(x)


class Middle(nnx.Module):
    """Residual block, attention, residual block. [B, H, W, C] -> the same."""

    def __init__(
        self,
        channels: int,
        config: VAVAEConfig,
        *,
        dtype: DTypeLike,
        remat: str,
        rngs: nnx.Rngs,
    ):
        block = _residual(config, dtype=dtype, remat=remat, rngs=rngs)
        self.block_1 = block(channels, channels)
        self.attn_1 = AttnBlock(channels, groups=config.num_groups, dtype=dtype, rngs=rngs)
        self.block_2 = block(channels, channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nnx.Module):
    """Image to features. [B, H, W, C] -> [B, H/f, W/f, 2 z_channels]."""

    def __init__(self, config: VAVAEConfig, *, dtype: DTypeLike, remat: str, rngs: nnx.Rngs):
        widths = [config.ch * factor for factor in (1, *config.ch_mult)]
        last = len(config.ch_mult) - 1
        self.conv_in = _conv(config.in_channels, config.ch, 3, dtype=dtype, rngs=rngs)
        self.down = nnx.List(
            [
                Level(
                    widths[i],
                    widths[i + 1],
                    config.num_res_blocks,
                    config,
                    attention=config.resolution >> i in config.encoder_attn_resolutions,
                    resample="downsample" if i < last else None,
                    dtype=dtype,
                    remat=remat,
                    rngs=rngs,
                )
                for i in range(last + 1)
            ]
        )
        self.mid = Middle(widths[-1], config, dtype=dtype, remat=remat, rngs=rngs)
        self.norm_out = _norm(widths[-1], config.num_groups, dtype=dtype, rngs=rngs)
        self.conv_out = _conv(widths[-1], 2 * config.z_channels, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(nnx.swish(self.norm_out(self.mid(x))))


class Decoder(nnx.Module):
    """Features to image. [B, h, w, z_channels] -> [B, h f, w f, C].

    `up` is ordered by resolution, finest first, as in the release: it runs from its end.
    """

    def __init__(self, config: VAVAEConfig, *, dtype: DTypeLike, remat: str, rngs: nnx.Rngs):
        widths = [config.ch * factor for factor in config.ch_mult]
        widths.append(widths[-1])
        self.conv_in = _conv(config.z_channels, widths[-1], 3, dtype=dtype, rngs=rngs)
        self.mid = Middle(widths[-1], config, dtype=dtype, remat=remat, rngs=rngs)
        self.up = nnx.List(
            [
                Level(
                    widths[i + 1],
                    widths[i],
                    config.num_res_blocks + 1,
                    config,
                    attention=config.resolution >> i in config.decoder_attn_resolutions,
                    resample="upsample" if i > 0 else None,
                    dtype=dtype,
                    remat=remat,
                    rngs=rngs,
                )
                for i in range(len(config.ch_mult))
            ]
        )
        self.norm_out = _norm(widths[0], config.num_groups, dtype=dtype, rngs=rngs)
        self.conv_out = _conv(widths[0], config.in_channels, 3, dtype=dtype, rngs=rngs)

    def __call__(self, z: jax.Array) -> jax.Array:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(nnx.swish(self.norm_out(x)))


class VAVAE(nnx.Module):
    """Variational autoencoder of images. Parameters are float32, dtype is that of convolutions.

    A Tokenizer. remat: one of REMAT; what is not kept of a residual block is computed again in
    every backward pass. Raises ValueError for another.
    """

    def __init__(
        self,
        config: VAVAEConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        if remat not in REMAT:
            raise ValueError(unknown_name("remat policy of a tokenizer", remat, REMAT))
        self.config, self.dtype = config, np.dtype(dtype)
        self.latent_scaling: LatentScaling | None = None
        self.encoder = Encoder(config, dtype=self.dtype, remat=remat, rngs=rngs)
        self.decoder = Decoder(config, dtype=self.dtype, remat=remat, rngs=rngs)
        if config.quant_conv:
            z, d, moments = config.z_channels, config.embed_dim, 2 if config.use_variational else 1
            self.quant_conv = _conv(2 * z, moments * d, 1, dtype=self.dtype, rngs=rngs)
            self.post_quant_conv = _conv(d, z, 1, dtype=self.dtype, rngs=rngs)

    @property
    def resolution(self) -> int:
        """See Tokenizer."""
        return self.config.resolution

    @property
    def in_channels(self) -> int:
        """See Tokenizer."""
        return self.config.in_channels

    @property
    def embed_dim(self) -> int:
        """See Tokenizer."""
        return self.config.embed_dim

    @property
    def downsample_factor(self) -> int:
        """See Tokenizer."""
        return self.config.downsample_factor

    def encode(self, images: jax.Array) -> DiagonalGaussian:
        """Posterior. images: [B, H, W, C] in [-1, 1] -> over [B, H/f, W/f, d].

        Raises ValueError if f does not divide H and W, the channels are others, or the images are
        not floating point.
        """
        factor, channels = self.config.downsample_factor, self.config.in_channels
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"images are {images.dtype}; expected floats in [-1, 1], which "
                "lightningdit_jax.to_model_range makes of uint8 pixels"
            )
        if images.ndim != 4 or images.shape[3] != channels:
            raise ValueError(f"images have shape {images.shape}; expected [B, H, W, {channels}]")
        if images.shape[1] % factor or images.shape[2] % factor:
            raise ValueError(
                f"images are {images.shape[1]} x {images.shape[2]}; expected sides that are "
                f"multiples of {factor}: crop or resize them"
            )
        moments = self.encoder(images)
        if self.config.quant_conv:
            moments = self.quant_conv(moments)
        if not self.config.use_variational:
            moments = jnp.concatenate([moments, jnp.ones_like(moments)], axis=-1)
        return DiagonalGaussian.from_moments(moments)

    def decode(self, z: jax.Array) -> jax.Array:
        """Images of latents, not clamped. z: [B, h, w, d] -> [B, h f, w f, C] float32.

        Raises ValueError if the latents have other channels.
        """
        if z.ndim != 4 or z.shape[3] != self.config.embed_dim:
            raise ValueError(
                f"latents have shape {z.shape}; expected [B, h, w, {self.config.embed_dim}]"
            )
        if self.config.quant_conv:
            z = self.post_quant_conv(z)
        return self.decoder(z).astype(jnp.float32)
