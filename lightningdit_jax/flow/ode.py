"""Solvers of the probability flow ODE dx/dt = v(x, t) on a given time grid."""

from collections.abc import Callable

import jax

from lightningdit_jax.errors import unknown_name
from lightningdit_jax.flow.dopri5 import dopri5
from lightningdit_jax.flow.runge_kutta import TABLEAUS, State, runge_kutta
from lightningdit_jax.flow.ucgm import ucgm

VelocityFn = Callable[[State, jax.Array], State]

SOLVERS = (*TABLEAUS, "dopri5", "ucgm")


def check_solver(solver: str) -> None:
    """Raises ValueError unless there is a solver of that name, naming the nearest one."""
    if solver not in SOLVERS:
        raise ValueError(unknown_name("solver", solver, SOLVERS))


def evaluations(solver: str, num_points: int) -> int | None:
    """Evaluations of the velocity on a grid of num_points times; None: as many as it takes.

    Raises ValueError for an unknown solver.
    """
    check_solver(solver)
    if solver == "dopri5":
        return None
    return (num_points - 1) * (TABLEAUS[solver].stages if solver in TABLEAUS else 1)


def integrate(
    solver: str,
    velocity_fn: VelocityFn,
    x: State,
    grid: jax.Array,
    *,
    trajectory: bool = False,
    rtol: float = 1e-3,
    atol: float = 1e-6,
    extrapolation: float = 0.5,
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
    Returns the state at grid[-1], or with trajectory=True the states at all grid times [N, B, ...].
    Raises ValueError for an unknown name, naming the nearest one, and for a grid of one point.
    """
    check_solver(solver)
    if len(grid) < 2:
        raise ValueError(f"the time grid has {len(grid)} points; expected at least 2")

    def field(x, t, evaluation):
        return velocity_fn(x, t)

    if solver == "dopri5":
        return dopri5(field, x, grid, rtol=rtol, atol=atol, trajectory=trajectory)
    if solver == "ucgm":
        return ucgm(field, x, grid, extrapolation=extrapolation, trajectory=trajectory)
    return runge_kutta(TABLEAUS[solver], field, x, grid, trajectory=trajectory)
