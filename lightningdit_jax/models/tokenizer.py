"""What a tokenizer of images has to offer, whatever it is made of."""

from typing import Protocol, runtime_checkable

import jax

from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.posterior import DiagonalGaussian


@runtime_checkable
class Tokenizer(Protocol):
    """Images to latents and back. Images and latents are NHWC.

    latent_scaling: how its checkpoint says that its latents are to be scaled, None where it does
    not.
    """

    latent_scaling: LatentScaling | None

    @property
    def resolution(self) -> int:
        """Side of the square images that data is cropped to, in pixels."""

    @property
    def in_channels(self) -> int:
        """Channels C of an image."""

    @property
    def embed_dim(self) -> int:
        """Channels d of a latent."""

    @property
    def downsample_factor(self) -> int:
        """f: side of an image over that of its latent."""

    def encode(self, images: jax.Array) -> DiagonalGaussian:
        """Posterior. images: [B, H, W, C] in [-1, 1] -> over [B, H/f, W/f, d]."""

    def decode(self, z: jax.Array) -> jax.Array:
        """Images of latents, not clamped. z: [B, h, w, d] -> [B, h f, w f, C] float32."""
