"""Exponential moving averages of the weights."""

from typing import Any

import jax
import jax.numpy as jnp

from lightningdit_jax.average_profiles import exponent_of


def update_ema(ema: Any, params: Any, decay: float) -> Any:
    """decay * ema + (1 - decay) * params, every step, no warm-up (Peebles & Xie 2023)."""
    return jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, ema, params)


def update_power_ema(ema: Any, params: Any, step: jax.Array, sigma: float) -> Any:
    """As update_ema, of a decay that grows: (1 - 1 / t) ** (gamma + 1) at step t, counted from 1.

    So the average is of a profile of the relative width sigma at every step, and knows nothing of
    the weights before the first (Karras et al. 2024, arXiv 2312.02696, eq. 127).
    """
    # What is left of 1 is small, and would be rounded away.
    share = -jnp.expm1((exponent_of(sigma) + 1.0) * jnp.log1p(-1.0 / step.astype(jnp.float32)))
    return jax.tree.map(lambda e, p: e + share * (p - e), ema, params)
