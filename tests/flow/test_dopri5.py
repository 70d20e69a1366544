"""What is particular to adaptive steps; tests/flow/test_ode.py has what all solvers share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightningdit_jax.flow.ode import integrate
from lightningdit_jax.flow.timesteps import time_grid
from tests.flow.gaussian import GaussianFlow, noise
from tests.xla_flags import OPTIMIZED

FLOW = GaussianFlow()
X = noise(4, 3)


def solve(velocity, x, grid, compiler_options=None, **options):
    program = functools.partial(integrate, "dopri5", velocity, grid=grid, **options)
    return jax.jit(program, compiler_options=compiler_options)(x=x)


def recorded(velocity):
    times = []

    def recording(x, t):
        jax.debug.callback(lambda t: times.append(float(t)), t, ordered=True)
        return velocity(x, t)

    return recording, times


def test_tolerance_sets_error_and_cost():
    velocity, times = recorded(FLOW.velocity)

    @jax.jit
    def sample(rtol):
        return integrate("dopri5", velocity, X, time_grid(2), rtol=rtol, atol=rtol / 10)

    exact, costs = FLOW.transport(X, 0.0, 1.0), [0]
    for rtol in (1e-3, 1e-4, 1e-5):
        np.testing.assert_allclose(sample(rtol), exact, atol=10 * rtol)
        jax.effects_barrier()
        costs.append(len(times))
    assert (np.diff(costs, 2) > 0).all()


def test_interpolated_states_are_as_good_as_the_last():
    """Grid times lie within the steps, whose polynomial is of order 4."""
    grid = time_grid(21, 0.3)
    states = solve(FLOW.velocity, X, grid, rtol=1e-5, trajectory=True)
    exact = np.stack([FLOW.transport(np.asarray(X), 0.0, float(t)) for t in grid])
    np.testing.assert_allclose(states, exact, atol=1e-4)


def test_the_last_step_goes_beyond_the_grid():
    velocity, times = recorded(FLOW.velocity)
    jax.block_until_ready(solve(velocity, X, time_grid(2)))
    jax.effects_barrier()
    assert max(times) > 1
    # One slope, one to find the first size, then six a step; the slope of a step's end is kept.
    assert (len(times) - 2) % 6 == 0


@pytest.mark.parametrize("grid", [[0.0, 0.4, 1.0], [1.0, 0.4, 0.0]])
def test_zero_velocity_takes_a_few_growing_steps(grid):
    """Error and slope are exactly 0: no division by them. Fused multiply-adds keep x's last bit."""
    velocity, times = recorded(lambda x, t: jnp.zeros_like(x))
    end = solve(velocity, X, np.float32(grid), OPTIMIZED)
    jax.effects_barrier()
    np.testing.assert_array_equal(end, X)
    assert len(times) < 60


def test_a_sample_depends_on_its_batch():
    """One error norm for all, as in torchdiffeq: a wild neighbor shortens everyone's steps."""
    x = jnp.ones((2, 1))
    wild = jnp.array([[1.0], [40.0]])
    alone = solve(lambda x, t: x * jnp.cos(x), x[:1], time_grid(2))
    together = solve(lambda x, t: x * jnp.cos(wild * x), x, time_grid(2))
    difference = np.abs(alone - together[:1]).max()
    assert 0 < difference < 1e-2


@pytest.mark.parametrize("explode", [lambda x, t: x * x * 3, lambda x, t: x / (0.5 - t) ** 2])
def test_a_flow_that_explodes_ends_in_nan(explode):
    """And the loop ends."""
    states = solve(explode, jnp.ones((1, 1)), time_grid(5), trajectory=True)
    assert np.isfinite(states[:2]).all() and np.isnan(states[-1]).all()
