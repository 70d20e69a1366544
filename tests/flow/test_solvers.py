"""Rows of the table of solvers, against what the solvers do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightningdit_jax.flow.paths import PATHS
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.flow.solver import Problem, look_up
from lightningdit_jax.flow.solvers import SOLVERS
from lightningdit_jax.sampling_options import OF_GUIDANCE, SamplingOptions
from tests.flow.gaussian import GaussianFlow, noise

OF_ALL = {"num_steps", "solver", "timestep_shift"}
GUIDES = {"cfg_scale", "cfg_channels", "cfg_interval_start", "cfg_interval_end"} | {
    *("ig_scale", "ig_interval_start", "ig_interval_end"),
}
X = noise(2, 3)


def defaults(names):
    return {name: getattr(SamplingOptions, name) for name in names}


def solve(solver, velocity_fn, num_steps=6, **options):
    """From the row alone, as the sampler does it. Returns the grid too."""
    row, flow = SOLVERS[solver], GaussianFlow()
    values = defaults(row.own_options) | options
    grid = row.grid(Flow(), num_steps, 0.0, **{k: values[k] for k in row.grid_options})
    problem = Problem(velocity_fn or flow.velocity, PATHS["linear"], lambda step: jnp.cos(X + step))
    return row.integrate(problem, X, grid, **{k: values[k] for k in row.options}), grid


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "dopri5"])
def test_a_row_says_when_the_velocity_is_asked_for(solver):
    times = []

    def recording(x, t):
        jax.debug.callback(lambda t: times.append(float(t)), t, ordered=True)
        return GaussianFlow().velocity(x, t)

    for last_step in ("mean", "none") if solver == "sde_euler" else ("mean",):
        times.clear()
        options = {"last_step": last_step} if solver.startswith("sde") else {}
        end, grid = solve(solver, recording, **options)
        jax.block_until_ready(end)
        jax.effects_barrier()
        row = SOLVERS[solver]
        said = row.evaluation_times(grid, **defaults(row.options) | options)
        np.testing.assert_allclose(said, times, rtol=1e-6)


OTHERS = {
    "rtol": 0.5,
    "atol": 0.5,
    "extrapolation": 0.2,
    "time_warp": (1.0, 0.9, 1.2),
    "diffusion": "constant",
    "diffusion_norm": 0.5,
    "last_step": "tweedie",
    "last_step_size": 0.1,
}


@pytest.mark.parametrize("solver", [name for name, row in SOLVERS.items() if row.own_options])
def test_every_option_of_a_row_changes_its_samples(solver):
    plain, _ = solve(solver, None)
    for name in SOLVERS[solver].own_options:
        end, _ = solve(solver, None, **{name: OTHERS[name]})
        assert np.abs(end - plain).max() > 1e-5, name


def test_every_option_is_declared_once_and_read_by_some_solver():
    declared = {field.name for field in dataclasses.fields(SamplingOptions)}
    of_solvers = {name for row in SOLVERS.values() for name in row.own_options}
    assert of_solvers == declared - OF_ALL - GUIDES - set(OF_GUIDANCE)


def test_an_unknown_solver_is_named():
    with pytest.raises(ValueError, match="unknown solver 'sde_eulr'; did you mean 'sde_euler'"):
        look_up(SOLVERS, "sde_eulr")
