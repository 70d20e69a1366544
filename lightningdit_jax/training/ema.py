"""Exponential moving average of the weights."""

from typing import Any

import jax


def update_ema(ema: Any, params: Any, decay: float) -> Any:
    """decay * ema + (1 - decay) * params, every step, no warm-up (Peebles & Xie 2023)."""
    return jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, ema, params)
