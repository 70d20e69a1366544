import numpy as np
import pytest

from lightningdit_jax.flow.ode import integrate
from lightningdit_jax.flow.timesteps import time_grid
from lightningdit_jax.flow.ucgm import ucgm_grid
from tests.flow.gaussian import GaussianFlow, noise

FLOW = GaussianFlow()
X = noise(4, 3)


def plain(velocity, x, times, extrapolation):
    """Algorithm 2 of arXiv 2505.07447 in float64, evaluated at `times`; the last estimate."""
    x, estimates = np.asarray(x, np.float64), []
    for i, t in enumerate(times):
        v = np.asarray(velocity(x.astype(np.float32), np.float32(t)), np.float64)
        estimates.append((x - t * v, x + (1 - t) * v))
        now, before = np.array(estimates[-1]), np.array(estimates[max(i - 1, 0)])
        noise, data = now + extrapolation * (now - before) if i > 1 else now
        if i + 1 < len(times):
            x = (1 - times[i + 1]) * noise + times[i + 1] * data
    return estimates[-1][1]


@pytest.mark.parametrize("extrapolation", [0.0, 0.5])
def test_equals_the_published_algorithm(extrapolation):
    grid = ucgm_grid(21)
    sample = integrate("ucgm", FLOW.velocity, X, grid, extrapolation=extrapolation)
    want = plain(FLOW.velocity, X, grid[:-1].astype(np.float64), extrapolation)
    np.testing.assert_allclose(sample, want, rtol=1e-5, atol=1e-5)


def test_without_extrapolation_it_is_euler():
    grid = ucgm_grid(9)
    euler = integrate("euler", FLOW.velocity, X, grid)
    sample = integrate("ucgm", FLOW.velocity, X, grid, extrapolation=0.0)
    np.testing.assert_allclose(sample, euler, rtol=1e-6)


@pytest.mark.parametrize(("extrapolation", "order"), [(0.0, 1), (1 / 3, 2), (0.5, 1)])
def test_a_third_is_of_second_order(extrapolation, order):
    exact = FLOW.transport(X, 0.0, 1.0)
    errors = [
        np.abs(integrate("ucgm", FLOW.velocity, X, grid, extrapolation=extrapolation) - exact).max()
        for grid in map(time_grid, (101, 201, 401))
    ]
    measured = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(measured, order, atol=0.12)


def test_grid_rises_from_noise_to_data():
    grid = ucgm_grid(51)
    assert grid.shape == (51,) and grid.dtype == np.float32
    assert 0 < grid[0] < 1e-3 and 0.99 < grid[-2] < 1 and grid[-1] == 1
    assert (np.diff(grid) > 0).all()


def test_without_a_warp_the_grid_is_even():
    grid = ucgm_grid(6, warp=(1, 1, 1), gaps=(0.1, 0.1))
    np.testing.assert_allclose(grid, [0.1, 0.3, 0.5, 0.7, 0.9, 1], rtol=1e-6)


def test_bad_grids_are_refused():
    with pytest.raises(ValueError, match="num_steps is 2"):
        ucgm_grid(2)
    with pytest.raises(ValueError, match="time warp"):
        ucgm_grid(9, warp=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="gaps"):
        ucgm_grid(9, gaps=(0.5, 0.5))
