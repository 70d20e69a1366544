"""Interpolation paths between noise (t = 0) and data (t = 1), and what a velocity on them means."""

import abc
import dataclasses
import math

import jax
import jax.numpy as jnp

from lightningdit_jax.errors import unknown_name


def expand_time(t: jax.Array, x: jax.Array) -> jax.Array:
    """t [B] -> [B, 1, ..., 1], which broadcasts against x [B, ...]; a scalar stays one."""
    t = jnp.asarray(t)
    return t if t.ndim == 0 else jnp.reshape(t, (-1,) + (1,) * (x.ndim - 1))


class Path(abc.ABC):
    """A path x_t = alpha(t) x1 + sigma(t) x0 from noise x0 to data x1. SiT, arXiv 2401.08740.

    A subclass gives `alpha`, `sigma` and their time derivatives. Those take t of any shape; all
    that takes an x [B, ...] takes t [B] or a scalar. "Score" is the gradient of log p_t(x).
    """

    # Where alpha(0) is 0, `growth` is infinite there, and with it whatever is made of scores.
    starts_at_pure_noise = True
    # Where it is not, the velocity is infinite at t = 1.
    smooth_at_data = True

    @abc.abstractmethod
    def alpha(self, t: jax.Array) -> jax.Array:
        """Weight of the data at time t in [0, 1]."""

    @abc.abstractmethod
    def d_alpha(self, t: jax.Array) -> jax.Array:
        """Time derivative of `alpha`."""

    @abc.abstractmethod
    def sigma(self, t: jax.Array) -> jax.Array:
        """Weight of the noise at time t in [0, 1]."""

    @abc.abstractmethod
    def d_sigma(self, t: jax.Array) -> jax.Array:
        """Time derivative of `sigma`."""

    def growth(self, t: jax.Array) -> jax.Array:
        """d log alpha / dt: the velocity is growth x + score_weight score."""
        return self.d_alpha(t) / self.alpha(t)

    def score_weight(self, t: jax.Array) -> jax.Array:
        """growth sigma^2 - sigma d_sigma, the weight of the score in the velocity."""
        return self.growth(t) * self.sigma(t) ** 2 - self.sigma(t) * self.d_sigma(t)

    def wronskian(self, t: jax.Array) -> jax.Array:
        """d_alpha sigma - alpha d_sigma: (x, velocity) from (data, noise) has this determinant."""
        return self.d_alpha(t) * self.sigma(t) - self.alpha(t) * self.d_sigma(t)

    def interpolate(self, x0: jax.Array, x1: jax.Array, t: jax.Array) -> jax.Array:
        """Point on the path. x0 noise [B, ...], x1 data [B, ...], t [B] -> x_t [B, ...]."""
        t = expand_time(t, x1)
        return self.alpha(t) * x1 + self.sigma(t) * x0

    def velocity(self, x0: jax.Array, x1: jax.Array, t: jax.Array) -> jax.Array:
        """Time derivative of the path, the training target. Shapes as in `interpolate`."""
        t = expand_time(t, x1)
        return self.d_alpha(t) * x1 + self.d_sigma(t) * x0

    def noise_from_velocity(self, velocity: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
        """The expected noise x0 that a velocity at (x, t) stands for. All [B, ...]; t [B]."""
        t = expand_time(t, x)
        ratio = self.alpha(t) / self.d_alpha(t)
        return (ratio * velocity - x) / (ratio * self.d_sigma(t) - self.sigma(t))

    def data_from_velocity(self, velocity: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
        """The expected data x1 that a velocity at (x, t) stands for. All [B, ...]; t [B]."""
        t = expand_time(t, x)
        return (self.sigma(t) * velocity - self.d_sigma(t) * x) / self.wronskian(t)

    def velocity_from_data(
        self, data: jax.Array, x: jax.Array, t: jax.Array, least_sigma: float = 0.0
    ) -> jax.Array:
        """The velocity that an expected x1 at (x, t) stands for; infinite where sigma is 0.

        least_sigma: divides in the place of a smaller sigma.
        """
        t = expand_time(t, x)
        change = self.wronskian(t) * data + self.d_sigma(t) * x
        return change / jnp.maximum(self.sigma(t), least_sigma)

    def score_from_velocity(self, velocity: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
        """The score that a velocity at (x, t) stands for; infinite where sigma is 0."""
        return self.noise_from_velocity(velocity, x, t) / -self.sigma(expand_time(t, x))

    def velocity_from_score(self, score: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
        """The velocity that a score at (x, t) stands for; infinite where alpha is 0."""
        t = expand_time(t, x)
        return self.growth(t) * x + self.score_weight(t) * score


@dataclasses.dataclass(frozen=True)
class LinearPath(Path):
    """Straight line x_t = t x1 + (1 - t) x0. Yao et al. 2025, sec. 4; SiT."""

    def alpha(self, t):
        return t

    def d_alpha(self, t):
        return jnp.ones_like(t)

    def sigma(self, t):
        return 1 - t

    def d_sigma(self, t):
        return -jnp.ones_like(t)

    def wronskian(self, t):
        return jnp.ones_like(t)


@dataclasses.dataclass(frozen=True)
class GVPPath(Path):
    """Quarter circle x_t = sin(pi t / 2) x1 + cos(pi t / 2) x0, which keeps the variance. SiT."""

    def alpha(self, t):
        return jnp.sin(t * math.pi / 2)

    def d_alpha(self, t):
        return math.pi / 2 * jnp.cos(t * math.pi / 2)

    def sigma(self, t):
        return jnp.cos(t * math.pi / 2)

    def d_sigma(self, t):
        return -math.pi / 2 * jnp.sin(t * math.pi / 2)


@dataclasses.dataclass(frozen=True)
class VPPath(Path):
    """Variance-preserving diffusion with a linear beta. Song et al. 2021, arXiv 2011.13456, app. B.

    beta falls from beta_max at the noise (t = 0) to beta_min at the data. At t = 0 a trace of the
    data is left in the noise (alpha 0.0066), at t = 1 sigma and d_sigma are 0 and infinite.
    """

    starts_at_pure_noise = False
    smooth_at_data = False
    beta_min: float = 0.1
    beta_max: float = 20.0

    def _log_alpha(self, t):
        return (
            -0.25 * (1 - t) ** 2 * (self.beta_max - self.beta_min) - 0.5 * (1 - t) * self.beta_min
        )

    def growth(self, t):
        return 0.5 * (1 - t) * (self.beta_max - self.beta_min) + 0.5 * self.beta_min

    def score_weight(self, t):
        return self.growth(t)

    def alpha(self, t):
        return jnp.exp(self._log_alpha(t))

    def d_alpha(self, t):
        return self.alpha(t) * self.growth(t)

    def sigma(self, t):
        return jnp.sqrt(-jnp.expm1(2 * self._log_alpha(t)))

    def d_sigma(self, t):
        return -jnp.exp(2 * self._log_alpha(t)) * self.growth(t) / self.sigma(t)


PATHS: dict[str, Path] = {"linear": LinearPath(), "gvp": GVPPath(), "vp": VPPath()}


def get_path(name: str) -> Path:
    """The path of that name. Raises ValueError for an unknown one, naming the nearest."""
    if name not in PATHS:
        raise ValueError(unknown_name("path", name, tuple(PATHS)))
    return PATHS[name]
