"""Guidance by labels, by a worse model or by a model's own earlier blocks, on parts of time."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lightningdit_jax.flow.guidance_rules import Projection, optimized, strength

ConditionalVelocityFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
TwoVelocitiesFn = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def _interleave(a: jax.Array, b: jax.Array) -> jax.Array:
    """a, b: [B, ...] -> [a0, b0, a1, b1, ...] [2B, ...]."""
    return jnp.stack([a, b], axis=1).reshape(2 * a.shape[0], *a.shape[1:])


@dataclasses.dataclass(frozen=True, eq=False)
class GuidedVelocity:
    """v(x [B, ..., C], scalar t), float32 [B, ..., C].

    with_memory: (x, t, memory) -> (v, memory), where a Projection has a momentum; memory:
    [B, ..., guided channels], 0 before the first step.
    """

    with_memory: Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]

    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        return self.with_memory(x, t, None)[0]


def guide(
    velocity_fn: ConditionalVelocityFn,
    labels: jax.Array,
    null_label: int | jax.Array,
    *,
    cfg_scale: float | jax.Array,
    cfg_channels: int | None = 3,
    interval_start: float | jax.Array = 0.0,
    interval_end: float | jax.Array = 1.0,
    weak_velocity_fn: ConditionalVelocityFn | None = None,
    schedule: str = "constant",
    schedule_power: float | jax.Array = 1.0,
    optimized_scale: bool = False,
    projection: Projection | None = None,
) -> GuidedVelocity:
    """Guided velocity v(x, t) of a label-conditional model. Ho & Salimans 2022.

    velocity_fn: (x [B, ..., C], t [B], y [B]) -> velocity [B, ..., C].
    labels: int [B]; null_label: the label that stands for "no label". Or embeddings [B, D] and the
        one [D] of the null label, for a velocity_fn that takes those.
    cfg_scale: v = v_null + cfg_scale (v_label - v_null). At a Python number 1 that is v_label, and
        the unconditional half is never computed.
    cfg_channels: guide the first so many channels and leave the others conditional; None guides
        all. The release's published numbers are made with 3 (inherited from DiT).
    interval_start, interval_end: guidance is on for start <= t <= end (in float32); outside the
        velocity is v_label and the unconditional half is not computed. An end of 1 or more has no
        effect, also where a solver looks beyond t = 1. Kynkäänniemi et al. 2024.
    weak_velocity_fn: a worse model of the same data, which is asked for the same labels and takes
        the place of v_null. Autoguidance, Karras et al. 2024.
    schedule, schedule_power: `strength` of cfg_scale - 1 at t; at the constant 1 it has no effect.
    optimized_scale: v_null is `optimized` first.
    projection: of what guidance adds to v_label; None leaves it as it is. All three see the guided
        channels alone, as though the others were not there.

    Raises ValueError if cfg_channels is below 1, or above C once x is seen.
    """
    if cfg_channels is not None and cfg_channels < 1:
        raise ValueError(
            f"cfg_channels is {cfg_channels}; expected a positive number, or None for all channels"
        )

    def evaluate(model: ConditionalVelocityFn, x, t, y):
        # float32 before anything is subtracted: guidance amplifies rounding by cfg_scale.
        return model(x, jnp.full(x.shape[0], t, jnp.float32), y).astype(jnp.float32)

    def conditional(x, t, memory):
        return evaluate(velocity_fn, x, t, labels), memory

    def both(x, t):
        if weak_velocity_fn is not None:
            return conditional(x, t, None)[0], evaluate(weak_velocity_fn, x, t, labels)
        # Label and null label of one image are neighbors in the batch, so a batch sharded over
        # devices keeps each pair on one device and guidance needs no communication.
        x_2B, y_2B = _interleave(x, x), _interleave(labels, jnp.full_like(labels, null_label))
        v_2B = evaluate(velocity_fn, x_2B, t, y_2B)
        v_B2 = v_2B.reshape(x.shape[0], 2, *v_2B.shape[1:])
        return v_B2[:, 0], v_B2[:, 1]

    def combine(v_label, v_null, x, t, memory):
        if schedule == "constant" and not optimized_scale and projection is None:
            return v_null + cfg_scale * (v_label - v_null), memory
        update = v_label - (optimized(v_null, v_label) if optimized_scale else v_null)
        if projection is not None:
            update, memory = projection(update, v_label, x, t, memory)
        return v_label + (cfg_scale - 1) * strength(schedule, t, schedule_power) * update, memory

    def guided(x, t, memory):
        if cfg_channels is not None and cfg_channels > x.shape[-1]:
            raise ValueError(
                f"cfg_channels is {cfg_channels}, but x has {x.shape[-1]} channels (shape "
                f"{x.shape}); expected at most that, or None for all channels"
            )
        v_label, v_null = both(x, t)
        if cfg_channels is None:
            return combine(v_label, v_null, x, t, memory)
        label, null, state = (array[..., :cfg_channels] for array in (v_label, v_null, x))
        v, memory = combine(label, null, state, t, memory)
        return jnp.concatenate([v, v_label[..., cfg_channels:]], axis=-1), memory

    if isinstance(cfg_scale, (int, float)) and cfg_scale == 1:
        return GuidedVelocity(conditional)
    if isinstance(interval_start, (int, float)) and interval_start <= 0 and interval_end >= 1:
        return GuidedVelocity(guided)

    def velocity(x, t, memory):
        on = guidance_is_on(jnp.float32(t), jnp.float32(interval_start), jnp.float32(interval_end))
        return jax.lax.cond(on, guided, conditional, x, jnp.float32(t), memory)

    return GuidedVelocity(velocity)


def guide_internally(
    velocities_fn: TwoVelocitiesFn,
    *,
    ig_scale: float | jax.Array,
    interval_start: float | jax.Array = 0.0,
    interval_end: float | jax.Array = 1.0,
) -> ConditionalVelocityFn:
    """Velocity of a model guided by what its own earlier blocks say. Zhou et al. 2025, sec. 3.

    velocities_fn: (x [B, ..., C], t [B], y [B]) -> (strong, weak), of the whole model and of its
    second head, each [B, ..., C] and both of one forward pass. v = weak + ig_scale (strong - weak)
    on all channels, in float32, at times of the interval, which is as in `guide`; strong outside.
    The result is what `guide` takes: label and null label are guided internally first, and then by
    each other, as published. arXiv 2512.24176.
    """

    def velocity(x: jax.Array, t: jax.Array, y: jax.Array) -> jax.Array:
        strong, weak = (v.astype(jnp.float32) for v in velocities_fn(x, t, y))
        on = guidance_is_on(t, jnp.float32(interval_start), jnp.float32(interval_end))
        guided = weak + ig_scale * (strong - weak)
        return jnp.where(on.reshape(-1, *[1] * (x.ndim - 1)), guided, strong)

    return velocity


def guidance_is_on(t: Any, start: Any, end: Any) -> Any:
    """Whether time t lies in the guided interval, all in float32. NumPy or JAX, any shapes."""
    return (t >= start) & ((t <= end) | (end >= 1))
