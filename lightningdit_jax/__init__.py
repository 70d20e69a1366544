"""LightningDiT and VA-VAE in JAX and Flax, for TPU pods and GPUs."""

import importlib
from typing import Any

_HOME = {
    "DiagonalGaussian": "models.posterior",
    "LatentScaling": "latent_scaling",
    "LightningDiT": "models.lightningdit",
    "VAVAE": "models.vae",
    "generate": "inference.generate",
    "latent_stats": "inference.load",
    "load": "inference.load",
    "to_model_range": "models.pixels",
    "to_uint8": "models.pixels",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Imports a public name on first use: reading a config should not wait for JAX."""
    if name not in _HOME:
        raise AttributeError(f"module 'lightningdit_jax' has no attribute '{name}'")
    return getattr(importlib.import_module(f"lightningdit_jax.{_HOME[name]}"), name)
