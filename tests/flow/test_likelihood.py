import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from lightningdit_jax.flow.likelihood import log_likelihood, normal_log_density, rademacher_probes
from lightningdit_jax.flow.paths import PATHS
from lightningdit_jax.flow.timesteps import time_grid
from tests.flow.gaussian import GaussianFlow, noise

GRID = time_grid(17)[::-1]


def estimate(solver, velocity, x, **options):
    probes = rademacher_probes(0, jnp.arange(len(x)), x.shape[1:])
    return jax.jit(
        functools.partial(log_likelihood, solver, velocity, grid=GRID, probe_fn=probes, **options)
    )(x=x)


@pytest.mark.parametrize("solver", ["rk4", "heun3", "dopri5"])
@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_exact_for_independent_normal_data(solver, path):
    """There the Jacobian is diagonal, and one probe of -1 and 1 gives its trace exactly."""
    flow = GaussianFlow(path=PATHS[path])
    x = 1.5 + noise(3, 4, 2)
    log_p, start = estimate(solver, flow.velocity, x, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(log_p, flow.log_density(x), rtol=2e-4)
    np.testing.assert_allclose(start, flow.transport(x, 1.0, 0.0), rtol=1e-3, atol=1e-3)


def test_unbiased_where_dimensions_mix():
    """dx/dt = A x, so x(1) = e^A x(0) and the divergence is tr A, seen through random probes."""
    matrix = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    x = jnp.tile(jnp.array([0.5, -1.0, 2.0]), (4000, 1))
    log_p, start = estimate("rk4", lambda x, t: x @ jnp.asarray(matrix).T, x)
    want_start = scipy.linalg.expm(-matrix) @ np.asarray(x[0])
    np.testing.assert_allclose(start[0], want_start, rtol=1e-3)
    want = -0.5 * (want_start**2).sum() - 1.5 * np.log(2 * np.pi) - np.trace(matrix)
    log_p = np.asarray(log_p, np.float64)
    assert log_p.std() > 0.1
    assert log_p.mean() == pytest.approx(want, abs=5 * log_p.std() / 4000**0.5)


def test_probes_are_signs_by_sample_and_evaluation():
    probes = rademacher_probes(0, jnp.arange(100), (50,))
    first = np.asarray(probes(0))
    assert set(np.unique(first)) == {-1, 1}
    assert abs(first.mean()) < 5 / 5000**0.5 and abs((first * probes(1)).mean()) < 5 / 5000**0.5
    np.testing.assert_array_equal(rademacher_probes(0, jnp.arange(7, 9), (50,))(0), first[7:9])


def test_normal_log_density():
    x = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    want = -0.5 * (x**2).sum((1, 2)) - 6 * np.log(2 * np.pi)
    np.testing.assert_allclose(normal_log_density(jnp.asarray(x)), want, rtol=1e-6)


def test_what_has_no_likelihood_is_refused():
    flow, x = GaussianFlow(), noise(2, 3)
    with pytest.raises(ValueError, match="ucgm"):
        log_likelihood("ucgm", flow.velocity, x, GRID, lambda number: x)
    with pytest.raises(ValueError, match="rises"):
        log_likelihood("rk4", flow.velocity, x, time_grid(5), lambda number: x)
    with pytest.raises(ValueError, match="unknown solver"):
        log_likelihood("rk5", flow.velocity, x, GRID, lambda number: x)
