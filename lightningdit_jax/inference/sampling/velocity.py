"""The velocity of a generator, whatever it predicts."""

import jax

from lightningdit_jax.flow.paths import get_path
from lightningdit_jax.flow.predictions import Flow, to_velocity
from lightningdit_jax.models.lightningdit import LightningDiT


def velocity(
    dit: LightningDiT, x: jax.Array, t: jax.Array, y: jax.Array, flow: Flow | None = None
) -> jax.Array:
    """Velocity of the probability flow at x, what solvers and guidance take. SiT, sec. 2.

    x: [B, H, W, C] in the generator's scaling, t: [B] in [0, 1], y: [B] int or embeddings, as for
    dit(x, t, y) -> [B, H, W, C] float32. flow: what the generator was trained to do; None is what
    it says of itself (dit.flow), or else the release's. `functools.partial(velocity, dit)` is what
    `flow.guidance.guide` asks for. Infinite where to_velocity says so. Raises ValueError as
    dit(x, t, y).
    """
    flow = flow or dit.flow or Flow()
    return to_velocity(get_path(flow.path), flow.prediction, dit(x, t, y), x, t)
