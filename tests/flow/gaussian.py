"""Flows of which everything is known: the data are independent normal numbers."""

import dataclasses

import jax
import numpy as np

from lightningdit_jax.flow.paths import PATHS, Path


@dataclasses.dataclass(frozen=True)
class GaussianFlow:
    """Data N(mean, std^2), so p_t is N(alpha mean, alpha^2 std^2 + sigma^2)."""

    mean: float = 1.5
    std: float = 0.5
    path: Path = PATHS["linear"]

    def variance(self, t):
        return (self.path.alpha(t) * self.std) ** 2 + self.path.sigma(t) ** 2

    def score(self, x, t):
        return (self.path.alpha(t) * self.mean - x) / self.variance(t)

    def velocity(self, x, t):
        """E[d_alpha x1 + d_sigma x0 | x_t = x], by the regression of both on x_t."""
        path = self.path
        slope = path.alpha(t) * path.d_alpha(t) * self.std**2 + path.sigma(t) * path.d_sigma(t)
        centered = x - path.alpha(t) * self.mean
        return path.d_alpha(t) * self.mean + slope / self.variance(t) * centered

    def predicted(self, prediction, x, t):
        """What a perfect model says, of one of PREDICTIONS."""
        path, score = self.path, self.score(x, t)
        gain = path.alpha(t) * self.std**2 / self.variance(t)
        return {
            "velocity": self.velocity(x, t),
            "noise": -path.sigma(t) * score,
            "score": score,
            "data": self.mean + gain * (x - path.alpha(t) * self.mean),
        }[prediction]

    def transport(self, x, start, end):
        """Where the flow takes x from one time to another: quantiles stay."""
        ratio = np.sqrt(self.variance(end) / self.variance(start))
        return self.path.alpha(end) * self.mean + ratio * (x - self.path.alpha(start) * self.mean)

    def log_density(self, x):
        """Of the data, summed over all but the batch."""
        each = -0.5 * (((x - self.mean) / self.std) ** 2 + np.log(2 * np.pi * self.std**2))
        return each.reshape(len(x), -1).sum(1)


def noise(batch: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (batch, *shape))
