"""How much noise the reverse SDE adds and takes away, as a function of time."""

import math

import jax
import jax.numpy as jnp

from lightningdit_jax.errors import unknown_name
from lightningdit_jax.flow.paths import Path

DIFFUSIONS = ("constant", "sbdm", "sigma", "linear", "decreasing", "increasing-decreasing")


def diffusion(path: Path, form: str, t: jax.Array, norm: float = 1.0) -> jax.Array:
    """Diffusion coefficient D(t) of dx = (v + D score) dt + sqrt(2 D) dW. SiT, sec. 2.4.

    Any D >= 0 keeps the marginals. form: one of DIFFUSIONS; "sbdm" is that of the forward
    diffusion, infinite at t = 0 unless the path is "vp"; "sigma" is the noise's weight. norm: a
    factor, within "decreasing" one of the cosine. t of any shape -> the same shape.
    Raises ValueError for an unknown form, naming the nearest.
    """
    t = jnp.asarray(t, jnp.float32)
    if form == "constant":
        return jnp.full_like(t, norm)
    if form == "sbdm":
        return norm * path.score_weight(t)
    if form == "sigma":
        return norm * path.sigma(t)
    if form == "linear":
        return norm * (1 - t)
    if form == "decreasing":
        return 0.25 * (norm * jnp.cos(math.pi * t) + 1) ** 2
    if form == "increasing-decreasing":
        return norm * jnp.sin(math.pi * t) ** 2
    raise ValueError(unknown_name("diffusion form", form, DIFFUSIONS))
