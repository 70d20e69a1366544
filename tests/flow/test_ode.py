import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lightningdit_jax.flow.guidance import guide
from lightningdit_jax.flow.ode import SOLVERS, evaluations, integrate
from lightningdit_jax.flow.paths import PATHS
from lightningdit_jax.flow.timesteps import time_grid
from lightningdit_jax.flow.ucgm import ucgm_grid
from tests.flow.gaussian import GaussianFlow, noise

# Orders of convergence, and grids coarse enough that float32 does not hide the error.
ORDERS = {
    "euler": (1, (64, 128, 256)),
    "midpoint": (2, (16, 32, 64)),
    "heun2": (2, (16, 32, 64)),
    "heun3": (3, (8, 16, 32)),
    "rk4": (4, (4, 8, 16)),
}
FLOW = GaussianFlow()
X = noise(4, 3)


def solve(solver, velocity, x, grid, **options):
    return jax.jit(functools.partial(integrate, solver, velocity, grid=grid, **options))(x=x)


def velocity(x, t):
    """dx/dt = x cos t, solved by x(t) = x(0) exp(sin t)."""
    return x * jnp.cos(t)


@pytest.mark.parametrize("solver", ORDERS)
def test_order_of_convergence(solver):
    """On the GVP path: on straight ones the midpoint rule happens to be of order 3 here."""
    order, steps = ORDERS[solver]
    flow, x = GaussianFlow(path=PATHS["gvp"]), 3 * X
    exact = flow.transport(x, 0.0, 1.0)
    errors = [
        np.abs(solve(solver, flow.velocity, x, time_grid(n + 1)) - exact).max() for n in steps
    ]
    measured = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(measured, order, atol=0.1)


@pytest.mark.parametrize("solver", SOLVERS)
def test_noise_becomes_data_of_the_known_distribution(solver):
    grid = ucgm_grid(51) if solver == "ucgm" else time_grid(51)
    atol = {"euler": 0.04, "ucgm": 0.04, "dopri5": 5e-3, "heun2": 1e-3}.get(solver, 1e-5)
    data = solve(solver, FLOW.velocity, X, grid)
    np.testing.assert_allclose(data, FLOW.transport(X, 0.0, 1.0), atol=atol)


@pytest.mark.parametrize("solver", ["rk4", "heun3", "dopri5"])
def test_round_trip(solver):
    """Noise -> data -> noise on one grid and its reverse."""
    grid, options = time_grid(33), {"rtol": 1e-6} if solver == "dopri5" else {}
    data = solve(solver, FLOW.velocity, X, grid, **options)
    back = solve(solver, FLOW.velocity, data, grid[::-1], **options)
    np.testing.assert_allclose(back, X, atol=1e-4)


def test_euler_equals_a_loop_in_float64():
    grid = time_grid(7, 0.3)
    states = [np.asarray(X, np.float64)]
    for t, t_next in zip(grid.astype(np.float64)[:-1], grid.astype(np.float64)[1:]):
        states.append(states[-1] + (t_next - t) * states[-1] * np.cos(t))
    trajectory = solve("euler", velocity, X, grid, trajectory=True)
    np.testing.assert_allclose(trajectory, states, rtol=1e-6)
    np.testing.assert_allclose(integrate("euler", velocity, X, grid), states[-1], rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_constant_velocity_is_integrated_exactly(solver):
    """The straight path of one image: any number of steps ends on the data."""
    x0, x1 = np.random.default_rng(0).normal(size=(2, 1, 4)).astype(np.float32)
    for num_steps in (2, 9):
        end = solve(solver, lambda x, t: x1 - x0, x0, time_grid(num_steps))
        np.testing.assert_allclose(end, x1, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_last_state_of_a_trajectory_is_the_sample(solver):
    grid = time_grid(6, 0.3)
    trajectory = solve(solver, velocity, X, grid, trajectory=True)
    assert trajectory.shape == (6, *X.shape)
    np.testing.assert_array_equal(trajectory[0], X)
    np.testing.assert_allclose(trajectory[-1], solve(solver, velocity, X, grid), rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_state_stays_float32_under_a_bfloat16_model(solver):
    seen = []

    def low_precision(x, t):
        seen.append((x.dtype, t.dtype))
        return velocity(x, t).astype(jnp.bfloat16)

    end = solve(solver, low_precision, X.astype(jnp.bfloat16), time_grid(3))
    assert end.dtype == jnp.float32
    assert set(seen) == {(jnp.dtype("float32"), jnp.dtype("float32"))}


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_model_is_traced_once_whatever_the_stages(solver):
    """So it is compiled once; dopri5's first step size takes a second copy."""
    calls = []

    def counted(x, t):
        calls.append(None)
        return velocity(x, t)

    jax.jit(lambda x: integrate(solver, counted, x, time_grid(5))).lower(X)
    assert len(calls) == (2 if solver == "dopri5" else 1)


@pytest.mark.parametrize("solver", SOLVERS)
def test_evaluations_are_counted(solver):
    calls = []

    def counted(x, t):
        jax.debug.callback(lambda: calls.append(None))
        return velocity(x, t)

    jax.block_until_ready(solve(solver, counted, X, time_grid(5)))
    jax.effects_barrier()
    expected = evaluations(solver, 5)
    assert expected is None if solver == "dopri5" else len(calls) == expected


@pytest.mark.parametrize("solver", ["rk4", pytest.param("dopri5", marks=pytest.mark.slow), "ucgm"])
def test_guided_and_sharded_over_devices(solver):
    """Guidance that switches on within a stage, and a batch cut over all devices."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = NamedSharding(mesh, P("data"))
    x, labels = noise(16, 2), jnp.arange(16) % 3
    grid = ucgm_grid(8) if solver == "ucgm" else time_grid(8)

    def sample(x, labels):
        guided = guide(
            lambda x, t, y: FLOW.velocity(x, t[:, None]) + y[:, None],
            labels,
            0,
            cfg_scale=2.0,
            cfg_channels=None,
            interval_start=0.4,
        )
        return integrate(solver, guided, x, grid)

    plain = jax.jit(sample)(x, labels)
    cut = jax.jit(sample)(jax.device_put(x, rows), jax.device_put(labels, rows))
    assert cut.sharding.is_equivalent_to(rows, 2)
    np.testing.assert_allclose(cut, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("solver", ["heun3", "dopri5"])
def test_a_state_may_have_parts(solver):
    def rotation(state, t):
        return {"position": state["speed"], "speed": -state["position"]}

    state = {"position": jnp.zeros(2), "speed": jnp.ones(2)}
    options = {"rtol": 1e-6, "atol": 1e-6} if solver == "dopri5" else {}
    end = solve(solver, rotation, state, time_grid(33), **options)
    np.testing.assert_allclose(end["position"], np.sin([1, 1]), atol=2e-6)
    np.testing.assert_allclose(end["speed"], np.cos([1, 1]), atol=2e-6)


def test_bad_names_and_grids_are_refused():
    with pytest.raises(ValueError, match=r"eular.*euler"):
        integrate("eular", velocity, X, time_grid(5))
    with pytest.raises(ValueError, match=r"heun.*heun2"):
        evaluations("heun", 5)
    with pytest.raises(ValueError, match="rtol is given, but the solver 'rk4' does not read it"):
        integrate("rk4", velocity, X, time_grid(5), rtol=1e-6)
    with pytest.raises(ValueError, match="1 points"):
        integrate("euler", velocity, X, np.zeros(1))
