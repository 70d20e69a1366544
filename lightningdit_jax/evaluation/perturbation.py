"""Latents moved at random, and what is said of the images of such."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

SIGMAS = (0.125, 0.25, 0.5, 1.0)  # of noise, in deviations of a channel
SHARES = (0.1, 0.5, 1.0, 2.0)  # of a latent's length, Yue et al. 2026


def moved(latents: jax.Array, noise: jax.Array, amount: jax.Array, along: jax.Array) -> jax.Array:
    """Latents with noise: amount * noise, or a step of `amount` of their own length along it.

    latents, noise: [B, h, w, d]; amount: a number; along: bool, whether the noise gives a direction
    alone, which is then one of all directions of [h, w, d].
    """
    axes = tuple(range(1, latents.ndim))
    lengths = (jnp.sqrt(jnp.square(x).sum(axes, keepdims=True)) for x in (latents, noise))
    length, of_noise = lengths
    return latents + amount * jnp.where(along, length / of_noise, 1.0) * noise


def slope_per_doubling(by_sigma: Mapping[float, float]) -> float:
    """What a number changes by where sigma doubles: the slope of a line over log2(sigma)."""
    return float(np.polyfit(np.log2([*by_sigma]), [*by_sigma.values()], 1)[0])


def local_continuity(by_share: Mapping[float, float]) -> float:
    """Distances by share of a latent's length, together: weights go as 1 / share.

    The local perceptual continuity (LPC) of Yue et al. 2026, arXiv 2605.07915, eq. 10.
    """
    weights = 1 / np.array([*by_share])
    return float(np.average([*by_share.values()], weights=weights))
