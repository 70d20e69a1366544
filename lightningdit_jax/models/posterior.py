"""The distribution over latents that an encoder gives. Kingma & Welling 2014."""

import math

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class DiagonalGaussian:
    """Posterior over latents: mean and logvar [B, h, w, d] float32, logvar within [-30, 20]."""

    mean: jax.Array
    logvar: jax.Array

    @classmethod
    def from_moments(cls, moments: jax.Array) -> "DiagonalGaussian":
        """moments: [B, h, w, 2 d], means then log variances."""
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return cls(mean, jnp.clip(logvar, -30.0, 20.0))

    @property
    def std(self) -> jax.Array:
        """Standard deviation."""
        return jnp.exp(0.5 * self.logvar)

    @property
    def var(self) -> jax.Array:
        """Variance."""
        return jnp.exp(self.logvar)

    def sample(self, key: jax.Array) -> jax.Array:
        """A draw [B, h, w, d]."""
        return self.mean + self.std * jax.random.normal(key, self.mean.shape, jnp.float32)

    def mode(self) -> jax.Array:
        """The mean."""
        return self.mean

    def kl(self) -> jax.Array:
        """Divergence from the standard normal, summed over the latent. [B]."""
        terms = jnp.square(self.mean) + self.var - 1.0 - self.logvar
        return 0.5 * terms.sum(axis=(1, 2, 3))

    def nll(self, x: jax.Array) -> jax.Array:
        """Negative log likelihood of x [B, h, w, d], summed over the latent. [B]."""
        terms = math.log(2 * math.pi) + self.logvar + jnp.square(x - self.mean) / self.var
        return 0.5 * terms.sum(axis=(1, 2, 3))
