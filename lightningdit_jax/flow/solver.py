"""What a solver is to all who use it: a row of flow/solvers.py."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from lightningdit_jax.errors import unknown_name
from lightningdit_jax.flow.paths import Path, get_path
from lightningdit_jax.flow.predictions import SAMPLE_EPS, Flow, time_interval
from lightningdit_jax.flow.timesteps import time_grid

State = Any  # an array or a pytree of arrays
VelocityFn = Callable[[State, jax.Array], State]  # (state, scalar time) -> d state / d time
# The same, told which evaluation it is, from 0.
Field = Callable[[State, jax.Array, jax.Array], State]
NoiseFn = Callable[[jax.Array], jax.Array]  # number of the step -> standard normal noise


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is to be solved: the velocity, and for solvers of the SDE its path and its noise."""

    velocity_fn: VelocityFn
    path: Path | None = None
    noise_fn: NoiseFn | None = None

    def field(self, x: State, t: jax.Array, evaluation: jax.Array) -> State:
        """The velocity as a Field."""
        return self.velocity_fn(x, t)


def shifted_grid(flow: Flow, num_steps: int, timestep_shift: float) -> np.ndarray:
    """`time_grid` without the ends where what the flow's model predicts is infinite."""
    interval = time_interval(get_path(flow.path), flow.prediction, SAMPLE_EPS)
    return time_grid(num_steps, timestep_shift, interval)


def no_check(**options: Any) -> None:
    """For a solver without options, or whose grid checks them."""


@dataclasses.dataclass(frozen=True)
class Solver:
    """How noise becomes data. Own options go by name; SamplingOptions declares them.

    integrate(problem, x, grid, trajectory=False, **options): the state at the end of the grid, or
        at all its times.
    evaluation_times(grid, **options): times at which it asks for the velocity [evaluations], NumPy
        or JAX; None for a solver that chooses them as it goes.
    options: what these two take.
    grid(flow, num_steps, timestep_shift, **grid_options): times from noise to data, float32
        [num_steps], made by NumPy. Raises ValueError where it does not exist.
    grid_options: what it takes; they may change without compiling again.
    times_by: what decides the times of a solver that no timestep_shift warps, empty for others.
    path: the only path that it solves, empty for one that solves all.
    check(**options): raises ValueError for options out of range.
    """

    integrate: Callable[..., State]
    evaluation_times: Callable[..., Any] | None
    options: tuple[str, ...] = ()
    grid: Callable[..., np.ndarray] = shifted_grid
    grid_options: tuple[str, ...] = ()
    times_by: str = ""
    path: str = ""
    check: Callable[..., None] = no_check

    @property
    def own_options(self) -> tuple[str, ...]:
        """Everything that this solver reads and others may not."""
        return tuple(dict.fromkeys((*self.options, *self.grid_options)))


def look_up(solvers: Mapping[str, Solver], name: str) -> Solver:
    """The row of a name. Raises ValueError for an unknown one, naming the nearest."""
    if name not in solvers:
        raise ValueError(unknown_name("solver", name, tuple(solvers)))
    return solvers[name]
