"""The terms of VA-VAE's loss: arrays in, numbers out. Yao et al. 2025, sec. 3.

Images and features are NHWC. What each term does to the weights is put together in vae_gradients.
"""

import math

import chex
import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lightningdit_jax.config_vae_loss import StagesConfig, VAELossConfig
from lightningdit_jax.models.posterior import DiagonalGaussian

RATIO_EPS = 1e-4  # added to the norm that an adaptive weight divides by
MAX_DISC_RATIO = 1e4
MIN_VARIANCE = 1e-6  # delta of the variance expansion
MAGNITUDE = 1.0  # tau of its bound


@flax.struct.dataclass
class Stage:
    """What the stages of a run set at one step, all scalars.

    generator_factor, discriminator_factor: 1 where the adversary is on in that phase, else 0.
    """

    generator_factor: jax.Array
    discriminator_factor: jax.Array
    vf_weight: jax.Array
    distmat_margin: jax.Array
    cos_margin: jax.Array


def stage_at(stages: StagesConfig, step: jax.Array) -> Stage:
    """The stage of a training step [] int32.

    disc_start counts optimizer steps from the beginning of the stage, as each stage is a run of
    its own in the release: two a training step, the autoencoder's first. So 5001 begins with the
    discriminator's phase of training step 2500, and 1 with that of the first.
    """
    index = jnp.searchsorted(jnp.asarray(stages.start), step, side="right") - 1

    def value(values: tuple, dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jnp.asarray(values, dtype)[index]

    optimizer_steps = 2 * (step - value(stages.start, jnp.int32))
    disc_start = value(stages.disc_start, jnp.int32)
    return Stage(
        generator_factor=jnp.float32(optimizer_steps >= disc_start),
        discriminator_factor=jnp.float32(optimizer_steps + 1 >= disc_start),
        vf_weight=value(stages.vf_weight),
        distmat_margin=value(stages.distmat_margin),
        cos_margin=value(stages.cos_margin),
    )


def reconstruction_loss(
    images: jax.Array, reconstruction: jax.Array, lpips: jax.Array | None, config: VAELossConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Negative log likelihood of each image. [B, H, W, C], [B, H, W, C], [B] -> [B], metrics.

    (pixel_weight |x - y| + perceptual_weight LPIPS) / exp(logvar) + logvar at every pixel and
    channel, summed or averaged over them. lpips None leaves that term out.
    """
    chex.assert_equal_shape([images, reconstruction])
    l1 = jnp.abs(images - reconstruction).mean(axis=(1, 2, 3))
    error = config.pixel_weight * l1
    metrics = {"l1": l1.mean()}
    if lpips is not None:
        chex.assert_shape(lpips, (len(images),))
        error += config.perceptual_weight * lpips
        metrics["lpips"] = lpips.mean()
    count = math.prod(images.shape[1:]) if config.reduction == "sum" else 1
    return count * (error / math.exp(config.logvar) + config.logvar), metrics


def kl_loss(kl: jax.Array, latent_shape: tuple[int, ...], config: VAELossConfig) -> jax.Array:
    """Divergence from the prior. kl [B], summed over latents [B, h, w, d] -> scalar.

    Under "mean" it is twice the divergence per element: the release leaves out the half there.
    """
    chex.assert_shape(kl, latent_shape[:1])
    factor = 1.0 if config.reduction == "sum" else 2.0 / math.prod(latent_shape[1:])
    return factor * kl.mean()


def variance_loss(variance: jax.Array, config: VAELossConfig) -> jax.Array:
    """Variance expansion: sum of 1 / (variance + delta) over the latents of an image. Scalar.

    variance: of the posterior, [B, h, w, d]. Works against the likelihood, which by itself draws
    all variance to 0. Li et al. 2026, arXiv 2603.21085. Their text that we know gives neither delta
    nor whether it is a sum; it is one as the KL divergence is, by which their variances at their
    weights are of one size.
    """
    return _of_latents(1.0 / (variance + MIN_VARIANCE), config)


def magnitude_loss(z: jax.Array, config: VAELossConfig) -> jax.Array:
    """What keeps latents small that the variance expansion lets grow: sum of exp(|z| - 1). Scalar.

    z: posterior samples [B, h, w, d]. Li et al. 2026, arXiv 2603.21085; a sum as variance_loss.
    """
    return _of_latents(jnp.exp(jnp.abs(z) - MAGNITUDE), config)


def latent_weights(config: VAELossConfig) -> dict[str, float]:
    """Weights of latent_losses by name: of those above 0, and of the KL divergence always."""
    weights = {"ve": config.ve_weight, "magnitude": config.magnitude_weight}
    return {"kl": config.kl_weight} | {name: w for name, w in weights.items() if w > 0}


def latent_losses(
    posterior: DiagonalGaussian, z: jax.Array, config: VAELossConfig
) -> dict[str, jax.Array]:
    """The terms that ask for nothing but the latents z, by the names of latent_weights."""
    terms = {
        "kl": lambda: kl_loss(posterior.kl(), z.shape, config),
        "ve": lambda: variance_loss(posterior.var, config),
        "magnitude": lambda: magnitude_loss(z, config),
    }
    return {name: terms[name]() for name in latent_weights(config)}


def discriminator_loss(
    logits_real: jax.Array, logits_fake: jax.Array, config: VAELossConfig
) -> jax.Array:
    """Hinge loss of a discriminator, or the cross entropy ("vanilla"). Logits -> scalar."""
    chex.assert_equal_shape([logits_real, logits_fake])
    if config.disc_loss == "hinge":
        real, fake = jax.nn.relu(1.0 - logits_real), jax.nn.relu(1.0 + logits_fake)
    else:
        real, fake = jax.nn.softplus(-logits_real), jax.nn.softplus(logits_fake)
    return 0.5 * (real.mean() + fake.mean())


def adaptive_ratio(
    reference: jax.Array, gradient: jax.Array, largest: float, eps: float = RATIO_EPS
) -> jax.Array:
    """Ratio of the norms of two gradients at one layer, within [0, largest]. Esser et al. 2021."""
    chex.assert_equal_shape([reference, gradient])
    ratio = jnp.linalg.norm(reference.ravel()) / (jnp.linalg.norm(gradient.ravel()) + eps)
    return jnp.clip(ratio, 0.0, largest)


def _of_latents(terms: jax.Array, config: VAELossConfig) -> jax.Array:
    """Summed or averaged over an image's [B, h, w, d], then the mean over images."""
    return (terms.sum(axis=(1, 2, 3)) if config.reduction == "sum" else terms).mean()
