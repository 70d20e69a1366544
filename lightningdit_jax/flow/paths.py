"""Interpolation paths between noise (t = 0) and data (t = 1)."""

import dataclasses

import jax
import jax.numpy as jnp


def expand_time(t: jax.Array, x: jax.Array) -> jax.Array:
    """t [B] -> [B, 1, ..., 1], which broadcasts against x [B, ...]."""
    return jnp.reshape(t, (-1,) + (1,) * (x.ndim - 1))


@dataclasses.dataclass(frozen=True)
class LinearPath:
    """Straight line x_t = t x1 + (1 - t) x0 from noise x0 to data x1. LightningDiT sec. 3.1; SiT.

    `alpha` weighs the data and `sigma` the noise; both take t of any shape.
    """

    def alpha(self, t: jax.Array) -> jax.Array:
        """Weight of the data at time t in [0, 1]."""
        return t

    def d_alpha(self, t: jax.Array) -> jax.Array:
        """Time derivative of `alpha`."""
        return jnp.ones_like(t)

    def sigma(self, t: jax.Array) -> jax.Array:
        """Weight of the noise at time t in [0, 1]."""
        return 1 - t

    def d_sigma(self, t: jax.Array) -> jax.Array:
        """Time derivative of `sigma`."""
        return -jnp.ones_like(t)

    def interpolate(self, x0: jax.Array, x1: jax.Array, t: jax.Array) -> jax.Array:
        """Point on the path. x0 noise [B, ...], x1 data [B, ...], t [B] -> x_t [B, ...]."""
        t = expand_time(t, x1)
        return self.alpha(t) * x1 + self.sigma(t) * x0

    def velocity(self, x0: jax.Array, x1: jax.Array, t: jax.Array) -> jax.Array:
        """Time derivative of the path, the training target. Shapes as in `interpolate`."""
        t = expand_time(t, x1)
        return self.d_alpha(t) * x1 + self.d_sigma(t) * x0
