"""Solvers of the probability flow ODE dx/dt = v(x, t) on a given time grid."""

from typing import Any

import jax
import numpy as np

from lightningdit_jax.flow import dopri5, runge_kutta, ucgm
from lightningdit_jax.flow.solver import Problem, Solver, State, VelocityFn, look_up
from lightningdit_jax.sampling_options import SamplingOptions

SOLVERS: dict[str, Solver] = {**runge_kutta.SOLVERS, **dopri5.SOLVERS, **ucgm.SOLVERS}


def evaluations(solver: str, num_points: int) -> int | None:
    """Evaluations of the velocity on a grid of num_points times; None: as many as it takes.

    Raises ValueError for an unknown solver.
    """
    row = look_up(SOLVERS, solver)
    if row.evaluation_times is None:
        return None
    return len(row.evaluation_times(np.linspace(0, 1, num_points), **_options(solver, row, {})))


def integrate(
    solver: str,
    velocity_fn: VelocityFn,
    x: State,
    grid: jax.Array,
    *,
    trajectory: bool = False,
    **options: Any,
) -> State:
    """State at the end of the grid, of the flow that is x at its beginning.

    solver: one of SOLVERS; `evaluations` tells what each costs. "euler", "midpoint", "heun2",
        "heun3" and "rk4" (the 3/8 rule, as in torchdiffeq) step from one grid time to the next;
        "dopri5" chooses its steps by rtol and atol; "ucgm" is for the linear path and a rising
        `ucgm_grid`, with its `extrapolation`.
    velocity_fn: (x [B, ...], scalar t) -> [B, ...]; x: the state at grid[0] [B, ...], or a pytree
        of arrays. State and time are float32 whatever the model computes in.
    grid: [N] times, rising (0 -> 1, noise to data) or falling (data to noise: the same flow
        backwards, which undoes the other; the release's reverse mode fails).
    options: the solver's own; SamplingOptions has their defaults.
    Returns the state at grid[-1], or with trajectory=True the states at all grid times [N, B, ...].
    Raises ValueError for an unknown name, naming the nearest one, for options that are not the
    solver's, and for a grid of one point.
    """
    row = look_up(SOLVERS, solver)
    if len(grid) < 2:
        raise ValueError(f"the time grid has {len(grid)} points; expected at least 2")
    options = _options(solver, row, options)
    return row.integrate(Problem(velocity_fn), x, grid, trajectory=trajectory, **options)


def _options(solver: str, row: Solver, given: dict[str, Any]) -> dict[str, Any]:
    """What a row is called with: the given values, and defaults for the rest."""
    for name in given:
        if name not in row.options:
            raise ValueError(f"{name} is given, but the solver '{solver}' does not read it")
    return {name: getattr(SamplingOptions, name) for name in row.options} | given
