"""How a config's generator scales the latents it is trained on."""

import dataclasses

from lightningdit_jax.config import DataConfig
from lightningdit_jax.data.latents import load_stats
from lightningdit_jax.latent_scaling import LatentScaling


def scaling_of(data: DataConfig) -> LatentScaling:
    """data.latent_norm by the statistics in data.path, and data.latent_multiplier.

    Raises FileNotFoundError and ValueError as load_stats.
    """
    stats = load_stats(data.path) if data.latent_norm else LatentScaling()
    return dataclasses.replace(stats, multiplier=data.latent_multiplier)
