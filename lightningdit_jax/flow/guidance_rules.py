"""What guidance makes of two velocities: its strength over time, rescaled, projected."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from lightningdit_jax.errors import unknown_name
from lightningdit_jax.flow.paths import Path

SCHEDULES = ("constant", "linear", "cosine", "power_cosine")
_TINY = 1e-12  # least squared length that is divided by


def strength(schedule: str, t: jax.Array, power: float | jax.Array = 1.0) -> jax.Array:
    """What cfg_scale - 1 is times at time t, by one of SCHEDULES. t: of any shape -> its shape.

    "constant": 1. "linear", 2 t, and "cosine", 1 - cos(pi t), rise from 0 and are 1 on the mean
    over t. Wang et al. 2024, arXiv 2404.13040, sec. 4. "power_cosine", (1 - cos(pi t^power)) / 2,
    rises from 0 to 1. Gao et al. 2023, MDT, arXiv 2303.14389, with power 4 in its code. A solver
    that looks beyond t = 1 finds what is there at 1.
    Raises ValueError for an unknown name.
    """
    t = jnp.clip(jnp.asarray(t, jnp.float32), 0.0, 1.0)
    if schedule == "constant":
        return jnp.ones_like(t)
    if schedule == "linear":
        return 2 * t
    if schedule == "cosine":
        return 1 - jnp.cos(math.pi * t)
    if schedule == "power_cosine":
        return (1 - jnp.cos(math.pi * t**power)) / 2
    raise ValueError(unknown_name("guidance schedule", schedule, SCHEDULES))


def optimized(v_null: jax.Array, v_label: jax.Array) -> jax.Array:
    """s v_null with s = <v_label, v_null> / |v_null|^2, of each sample. All [B, ...].

    The multiple of v_null that is nearest to v_label. CFG-Zero*, arXiv 2503.18886, eq. 8.
    """
    return _dot(v_label, v_null) / jnp.maximum(_dot(v_null, v_null), _TINY) * v_null


@dataclasses.dataclass(frozen=True, eq=False)
class Projection:
    """Adaptive projected guidance. Sadat et al. 2024, arXiv 2410.02416, alg. 1.

    It works on what guidance adds to the predicted data D, of each sample: that plus `momentum`
    times the last one, None for none, is cut to the length `norm_threshold`, None for any, and of
    its part along the D of the label `eta` is kept. eta 1 alone changes nothing.
    path: turns velocities into data.
    """

    path: Path
    eta: float | jax.Array
    norm_threshold: float | jax.Array | None = None
    momentum: float | jax.Array | None = None

    def __call__(
        self,
        update: jax.Array,
        v_label: jax.Array,
        x: jax.Array,
        t: jax.Array,
        memory: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """(the projected update, the memory for the next step).

        update: of the velocity, v_label - v_null; x: the state, all [B, ...]; t: scalar. memory:
        of the step before [B, ...], 0 before the first, where there is a momentum; then t has to
        be below 1, where data no longer tell a velocity. Raises ValueError without it.
        """
        data_per_velocity = self.path.sigma(t) / self.path.wronskian(t)
        if self.momentum is not None:
            if memory is None:
                raise ValueError("guidance with a momentum needs the memory of the step before")
            memory = data_per_velocity * update + self.momentum * memory
            update = memory / data_per_velocity
        if self.norm_threshold is not None:
            length = jnp.abs(data_per_velocity) * jnp.sqrt(_dot(update, update))
            update = update * jnp.minimum(1.0, self.norm_threshold / jnp.maximum(length, _TINY))
        data = self.path.data_from_velocity(v_label, x, t)
        along = _dot(update, data) / jnp.maximum(_dot(data, data), _TINY) * data
        return update - (1 - self.eta) * along, memory


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Of each sample: [B, ...] -> [B, 1, ..., 1]."""
    return jnp.sum(a * b, axis=range(1, a.ndim), keepdims=True)
