"""Images through the tokenizer: to latents, and there and back."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from lightningdit_jax.inference.finite import rows_are_finite
from lightningdit_jax.models.pixels import to_model_range, to_uint8
from lightningdit_jax.models.posterior import DiagonalGaussian


def posterior_sample(
    posterior: DiagonalGaussian, indices: jax.Array, seed: int, flipped: int
) -> jax.Array:
    """Posterior samples by global image index. [B, h, w, d] and [B] -> [B, h, w, d].

    A function of (seed, index, flipped) alone, so batches and devices change nothing.
    """
    chex.assert_shape(indices, posterior.mean.shape[:1])
    root = jax.random.fold_in(jax.random.key(seed), flipped)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(root, indices)
    shape = posterior.mean.shape[1:]
    noise = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
    return posterior.mean + posterior.std * noise


def make_encoder(graphdef: nnx.GraphDef, seed: int) -> Callable:
    """encode(params, images [B, H, W, 3] uint8, indices [B]) -> (latents, latents of the flip)."""

    def encode(params, images, indices):
        vae = nnx.merge(graphdef, params)
        images = to_model_range(images)
        return tuple(
            posterior_sample(vae.encode(x), indices, seed, flipped)
            for flipped, x in enumerate((images, images[:, :, ::-1]))
        )

    return encode


def make_reconstructor(graphdef: nnx.GraphDef, seed: int) -> Callable:
    """reconstruct(params, images [B, H, W, 3] uint8, indices [B]) -> (images uint8, finite [B]).

    Decoded from a sample of the posterior, not from its mode, as the release evaluates. finite: of
    each image before it became pixels.
    """

    def reconstruct(params, images, indices):
        vae = nnx.merge(graphdef, params)
        posterior = vae.encode(to_model_range(images))
        decoded = vae.decode(posterior_sample(posterior, indices, seed, 0))
        return to_uint8(decoded), rows_are_finite(decoded)

    return reconstruct
