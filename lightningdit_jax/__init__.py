"""LightningDiT and VA-VAE in JAX and Flax, for TPU pods and GPUs."""

import importlib
from typing import TYPE_CHECKING, Any

from lightningdit_jax.object_stores import forget_listings

if TYPE_CHECKING:
    from lightningdit_jax.assembly.loading import latent_stats, load
    from lightningdit_jax.assembly.saving import save
    from lightningdit_jax.inference.sampling.generate import generate
    from lightningdit_jax.inference.sampling.velocity import velocity
    from lightningdit_jax.latent_scaling import LatentScaling
    from lightningdit_jax.models.lightningdit import LightningDiT
    from lightningdit_jax.models.pixels import to_model_range, to_uint8
    from lightningdit_jax.models.posterior import DiagonalGaussian
    from lightningdit_jax.models.vae import VAVAE
    from lightningdit_jax.publishing.job import push_to_hub, save_for_hub

__version__ = "0.1.0"
__all__ = [
    "VAVAE",
    "DiagonalGaussian",
    "LatentScaling",
    "LightningDiT",
    "generate",
    "latent_stats",
    "load",
    "push_to_hub",
    "save",
    "save_for_hub",
    "to_model_range",
    "to_uint8",
    "velocity",
]

# Where each public name is imported from on first use: reading a config should not wait for JAX.
_HOME = {
    "DiagonalGaussian": "models.posterior",
    "LatentScaling": "latent_scaling",
    "LightningDiT": "models.lightningdit",
    "VAVAE": "models.vae",
    "generate": "inference.sampling.generate",
    "latent_stats": "assembly.loading",
    "load": "assembly.loading",
    "push_to_hub": "publishing.job",
    "save": "assembly.saving",
    "save_for_hub": "publishing.job",
    "to_model_range": "models.pixels",
    "to_uint8": "models.pixels",
    "velocity": "inference.sampling.velocity",
}


forget_listings()  # before the first file of a bucket is asked for


def __getattr__(name: str) -> Any:
    """Imports a public name, and keeps it."""
    if name not in _HOME:
        raise AttributeError(f"module 'lightningdit_jax' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"lightningdit_jax.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, for completion, before any is imported."""
    return sorted({*__all__, "__version__"})
