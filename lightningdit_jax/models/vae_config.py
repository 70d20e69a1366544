"""The architecture of VA-VAE and of the other autoencoders of latent diffusion."""

import dataclasses
import functools
from collections.abc import Callable

import jax

from lightningdit_jax.errors import unknown_name

# diffusers' names (models/activations.py); swish is what Latent Diffusion calls silu.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "mish": jax.nn.mish,
}


@dataclasses.dataclass(frozen=True)
class VAVAEConfig:
    """Architecture of the autoencoder. Raises ValueError naming the field that does not fit.

    ch * ch_mult[i] are the channels of level i, each level halves the side. Attention stands at
    the levels whose side is in *_attn_resolutions for an image of the nominal `resolution`,
    whatever the size of the actual image. embed_dim: channels d of the latents.
    decoder_attn_resolutions () is the decoder of MAR's tokenizer. use_variational False is the
    release's autoencoder whose log variance is fixed at 1. num_groups: of every GroupNorm.
    activation: one of ACTIVATIONS, inside the residual blocks; before the last convolutions it is
    always swish, as in Latent Diffusion and diffusers. quant_conv False leaves out the 1x1
    convolutions on both sides of the latents, as Stable Diffusion 3 and FLUX do.
    """

    resolution: int
    in_channels: int
    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    encoder_attn_resolutions: tuple[int, ...]
    decoder_attn_resolutions: tuple[int, ...]
    z_channels: int
    embed_dim: int
    use_variational: bool = True
    num_groups: int = 32
    activation: str = "silu"
    quant_conv: bool = True

    def __post_init__(self):
        if not self.ch_mult or min(self.ch_mult) < 1:
            raise ValueError(f"ch_mult is {self.ch_mult}; expected positive factors, one a level")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "num_res_blocks" else 1
            if field.type is int and value < least:
                raise ValueError(f"{field.name} is {value}; expected at least {least}")
        if self.num_res_blocks == 0 and set(self.ch_mult) != {1}:
            raise ValueError(
                f"num_res_blocks is 0 with ch_mult {self.ch_mult}; without residual blocks no "
                "level can have other channels: expected factors of 1, or at least 1 block"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(unknown_name("activation", self.activation, tuple(ACTIVATIONS)))
        if not self.quant_conv and (self.z_channels != self.embed_dim or not self.use_variational):
            raise ValueError(
                f"quant_conv is off with z_channels {self.z_channels}, embed_dim {self.embed_dim}, "
                f"use_variational {self.use_variational}; without it the encoder ends in the "
                "moments: expected equal channels and a variational autoencoder"
            )
        if self.ch % self.num_groups:
            raise ValueError(
                f"ch is {self.ch}; expected a multiple of {self.num_groups}, the groups of "
                "GroupNorm (num_groups)"
            )
        if self.resolution % self.downsample_factor:
            raise ValueError(
                f"resolution is {self.resolution}; expected a multiple of "
                f"{self.downsample_factor} (ch_mult has {len(self.ch_mult)} levels)"
            )
        sides = [self.resolution >> level for level in range(len(self.ch_mult))]
        for name in ("encoder_attn_resolutions", "decoder_attn_resolutions"):
            if not set(getattr(self, name)) <= set(sides):
                raise ValueError(
                    f"{name} is {getattr(self, name)}; with resolution={self.resolution} and "
                    f"{len(sides)} levels expected some of {sides}"
                )

    @property
    def downsample_factor(self) -> int:
        """f: side of an image over that of its latent."""
        return 2 ** (len(self.ch_mult) - 1)
