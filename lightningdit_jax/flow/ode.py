"""Solvers of the probability flow ODE dx/dt = v(x, t) on a given time grid."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lightningdit_jax.errors import unknown_name

VelocityFn = Callable[[jax.Array, jax.Array], jax.Array]


def euler(
    velocity_fn: VelocityFn, x: jax.Array, grid: jax.Array, *, trajectory: bool = False
) -> jax.Array:
    """Explicit Euler: x + (t' - t) v(x, t) from each grid time t to the next one t'.

    velocity_fn: (x [B, ...], scalar t) -> [B, ...]; x: the state at grid[0] [B, ...]; grid: [N]
    times, so N - 1 evaluations. State and time are float32 whatever the model computes in.
    Returns the state at grid[-1] [B, ...], or with trajectory=True all of them [N, B, ...].
    """
    grid = jnp.asarray(grid, jnp.float32)
    x = x.astype(jnp.float32)

    def step(x, times):
        t, t_next = times
        x = x + (t_next - t) * velocity_fn(x, t).astype(jnp.float32)
        return x, x if trajectory else None

    last, states = jax.lax.scan(step, x, (grid[:-1], grid[1:]))
    return jnp.concatenate([x[None], states]) if trajectory else last


SOLVERS = {"euler": euler}


def integrate(
    solver: str,
    velocity_fn: VelocityFn,
    x: jax.Array,
    grid: jax.Array,
    *,
    trajectory: bool = False,
) -> jax.Array:
    """Run the solver of that name; arguments and result as in `euler`.

    Raises ValueError for an unknown name, naming the nearest one.
    """
    if solver not in SOLVERS:
        raise ValueError(unknown_name("solver", solver, tuple(SOLVERS)))
    return SOLVERS[solver](velocity_fn, x, grid, trajectory=trajectory)
