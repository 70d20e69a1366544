"""Gradients of VA-VAE's two players, with adaptive weights, in one pass each.

The release differentiates three losses at two layers and then the sum of all. Here every term is
pulled back once to the reconstruction or to the latent, the only places where terms meet: the
weights follow from what arrives there, and the weighted sum goes on. Only the decoder is passed
twice, where both the likelihood alone and the weighted sum must reach the latent.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lightningdit_jax.config_vae_loss import VAELossConfig
from lightningdit_jax.models.posterior import DiagonalGaussian
from lightningdit_jax.training.alignment_losses import LIKELIHOOD, Balance
from lightningdit_jax.training.vae_loss import (
    MAX_DISC_RATIO,
    Stage,
    adaptive_ratio,
    discriminator_loss,
    latent_losses,
    latent_weights,
    reconstruction_loss,
)

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class AutoencoderTerms:
    """The autoencoder's loss on one batch, as pure functions; None leaves a term out.

    encode(params) -> posterior, decode(params, z) -> images. lpips(images) -> [B].
    discriminate(images) -> (logits, statistics afterwards). alignment(projection, latents) ->
    scalar, of posterior samples, or of the means where aligns_mean; balance: its adaptive weight.
    through_generator(latents) -> scalar, of posterior samples, which counts generator_weight times.
    encoder_end, decoder_end: pick the kernel of the last layer out of gradients of params.
    """

    encode: Callable[[Any], DiagonalGaussian]
    decode: Callable[[Any, jax.Array], jax.Array]
    encoder_end: Callable[[Any], jax.Array]
    decoder_end: Callable[[Any], jax.Array]
    lpips: Callable[[jax.Array], jax.Array] | None = None
    discriminate: Callable[[jax.Array], tuple[jax.Array, Any]] | None = None
    alignment: Callable[[Any, jax.Array], jax.Array] | None = None
    aligns_mean: bool = False
    balance: Balance = LIKELIHOOD
    through_generator: Callable[[jax.Array], jax.Array] | None = None
    generator_weight: float = 0.0


@dataclasses.dataclass(frozen=True)
class AutoencoderGradients:
    """params: gradient of the autoencoder; projection: of the projection, None without one.

    latents: the posterior samples. stats: of the discriminator after its pass over the
    reconstruction, None without one.
    """

    params: Any
    projection: Any
    latents: jax.Array
    reconstruction: jax.Array
    stats: Any
    metrics: Metrics


def autoencoder_gradients(
    terms: AutoencoderTerms,
    params: Any,
    projection: Any,
    images: jax.Array,
    noise: jax.Array,
    stage: Stage,
    config: VAELossConfig,
) -> AutoencoderGradients:
    """Gradients of the whole loss: likelihood, terms of the latents, adversary, alignment.

    images: [B, H, W, C] in [-1, 1]; noise: of the posterior sample, [B, h, w, d].
    """
    weights = latent_weights(config)

    def encode(params: Any) -> tuple[jax.Array, jax.Array, Metrics]:
        """Latents for the decoder, latents to align, and what the latents cost by themselves."""
        posterior = terms.encode(params)
        chex.assert_equal_shape([posterior.mean, posterior.logvar, noise])
        z = posterior.mean + posterior.std * noise
        aligned = posterior.mean if terms.aligns_mean else z
        return z, aligned, latent_losses(posterior, z, config)

    def likelihood(reconstruction: jax.Array) -> tuple[jax.Array, Metrics]:
        lpips = None if terms.lpips is None else terms.lpips(reconstruction)
        return reconstruction_loss(images, reconstruction, lpips, config)

    def generator_loss(reconstruction: jax.Array) -> tuple[jax.Array, Any]:
        logits, stats = terms.discriminate(reconstruction)
        return -logits.mean(), stats

    # Whatever of a pulled-back gradient is not used is never computed: XLA removes it. So the end
    # of the encoder or the decoder costs one convolution, not a pass.
    (z, aligned, latent), pull_encoder = jax.vjp(encode, params)
    reconstruction, pull_decoder = jax.vjp(terms.decode, params, z)
    nll, pull_nll, metrics = jax.vjp(likelihood, reconstruction, has_aux=True)
    (d_nll,) = pull_nll(jnp.full_like(nll, 1 / nll.size))
    nll_at_decoder, nll_at_z = pull_decoder(d_nll)

    loss = nll.mean() + sum(weight * latent[name] for name, weight in weights.items())
    metrics |= {"nll": nll.mean(), **latent}
    d_reconstruction, stats = d_nll, None
    if terms.discriminate is not None:
        g_loss, pull_g, stats = jax.vjp(generator_loss, reconstruction, has_aux=True)
        (d_g,) = pull_g(jnp.ones_like(g_loss))
        d_weight = jnp.float32(config.disc_weight)
        if config.adaptive_disc:
            d_weight = config.disc_weight * adaptive_ratio(
                terms.decoder_end(nll_at_decoder),
                terms.decoder_end(pull_decoder(d_g)[0]),
                MAX_DISC_RATIO,
            )
        weight = d_weight * stage.generator_factor
        d_reconstruction += weight * d_g
        loss += weight * g_loss
        metrics |= {"g_loss": g_loss, "d_weight": d_weight, "disc_factor": stage.generator_factor}

    gradient, d_z = pull_decoder(d_reconstruction)
    d_latent = {name: jnp.full_like(latent[name], weight) for name, weight in weights.items()}
    d_aligned, d_projection = jnp.zeros_like(aligned), None
    if terms.alignment is not None:
        vf_loss, pull_vf = jax.vjp(terms.alignment, projection, aligned)
        d_projection, vf_at_aligned = pull_vf(jnp.ones_like(vf_loss))
        vf_weight = stage.vf_weight
        if config.adaptive_vf:
            no_z, no_latent = jnp.zeros_like(z), jax.tree.map(jnp.zeros_like, d_latent)
            rest = (d_z, d_aligned, d_latent)
            against = rest if terms.balance.whole_loss else (nll_at_z, d_aligned, no_latent)
            vf_weight *= adaptive_ratio(
                terms.encoder_end(pull_encoder(against)[0]),
                terms.encoder_end(pull_encoder((no_z, vf_at_aligned, no_latent))[0]),
                terms.balance.largest,
                terms.balance.eps,
            )
        d_projection = jax.tree.map(lambda g: vf_weight * g, d_projection)
        d_aligned = vf_weight * vf_at_aligned
        loss += vf_weight * vf_loss
        metrics |= {"vf_loss": vf_loss, "vf_weight": vf_weight}

    if terms.through_generator is not None:
        align_loss, pull_align = jax.vjp(terms.through_generator, z)
        d_z += pull_align(jnp.full_like(align_loss, terms.generator_weight))[0]
        loss += terms.generator_weight * align_loss
        metrics |= {"align_loss": align_loss}

    gradient = jax.tree.map(jnp.add, gradient, pull_encoder((d_z, d_aligned, d_latent))[0])
    metrics = {"loss": loss, **metrics}
    return AutoencoderGradients(gradient, d_projection, z, reconstruction, stats, metrics)


def discriminator_gradients(
    discriminate: Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]],
    params: Any,
    stats: Any,
    images: jax.Array,
    reconstruction: jax.Array,
    factor: jax.Array,
    config: VAELossConfig,
) -> tuple[Any, Any, Metrics]:
    """Gradient of the discriminator, its statistics afterwards, and metrics.

    discriminate(params, stats, images) -> (logits, stats afterwards): a pass in training mode. It
    sees the images first and then the reconstruction, which is a constant here.
    """

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
        real, seen = discriminate(params, stats, images)
        fake, seen = discriminate(params, seen, reconstruction)
        loss = factor * discriminator_loss(real, fake, config)
        means = {"logits_real": real.mean(), "logits_fake": fake.mean()}
        return loss, (seen, {"disc_loss": loss, **means})

    gradient, (stats, metrics) = jax.grad(loss_fn, has_aux=True)(params)
    return gradient, stats, metrics
