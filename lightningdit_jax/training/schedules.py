"""Learning rates by the step of the run: how they rise, and how they fall."""

from collections.abc import Callable

import optax

from lightningdit_jax.config import OptimizerConfig
from lightningdit_jax.errors import unknown_name


def _linear(rate: float, steps: int, end_factor: float) -> optax.Schedule:
    return optax.linear_schedule(rate, end_factor * rate, steps)


# How the rate falls in so many steps, by config.optimizer.schedule.
SCHEDULES: dict[str, Callable[[float, int, float], optax.Schedule] | None] = {
    "constant": None,
    "linear": _linear,
    "cosine": optax.cosine_decay_schedule,
    "trapezoid": _linear,
}


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """rate(step) of a run of num_steps steps; its first is step 0.

    All schedules rise linearly to learning_rate in warmup_steps, the first of which already moves.
    "constant" stays there; "linear" and "cosine" (Loshchilov and Hutter 2017, half a period) fall
    from there, "trapezoid" linearly in the last decay_steps. What falls would be at end_factor *
    learning_rate in the step after the last. The rate is not scaled by the batch size. Raises
    ValueError for an unknown schedule, and for one that has no steps to fall in.
    """
    name, rate, warmup = config.schedule, config.learning_rate, config.warmup_steps
    if name not in SCHEDULES:
        raise ValueError(unknown_name("value of config.optimizer.schedule", name, tuple(SCHEDULES)))
    rise = optax.constant_schedule(rate)
    if warmup > 1:
        rise = optax.linear_schedule(rate / warmup, rate, warmup - 1)
    fall, steps = SCHEDULES[name], num_steps - warmup
    if fall is None:
        return rise
    if name == "trapezoid":
        steps = config.decay_steps
    if not 0 < steps <= num_steps - warmup:
        decay = f", decay_steps {steps}" if name == "trapezoid" else ""
        raise ValueError(
            f"config.optimizer.schedule is '{name}' with warmup_steps {warmup}{decay} and "
            f"config.train.num_steps {num_steps}; expected at least one step to fall in, and all "
            "of them after the warm-up"
        )
    return optax.join_schedules([rise, fall(rate, steps, config.end_factor)], [num_steps - steps])
