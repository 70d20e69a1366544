import jax.numpy as jnp
import numpy as np
import pytest

from lightningdit_jax.flow.ode import euler, integrate
from lightningdit_jax.flow.timesteps import time_grid

X = jnp.array([[1.0, -2.0], [0.5, 3.0]])


def velocity(x, t):
    """dx/dt = x cos t, solved by x(t) = x(0) exp(sin t)."""
    return x * jnp.cos(t)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_euler_is_of_first_order(shift):
    """Shifts of about 0.3 would not do: there the first-order errors of this flow cancel."""
    exact = X * np.exp(np.sin(1.0))
    errors = [
        np.abs(euler(velocity, X, time_grid(n + 1, shift)) - exact).max() for n in (32, 64, 128)
    ]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(orders, 1, atol=0.06)


def test_euler_equals_a_loop_in_float64():
    grid = time_grid(7, 0.3)
    states = [np.asarray(X, np.float64)]
    for t, t_next in zip(grid.astype(np.float64)[:-1], grid.astype(np.float64)[1:]):
        states.append(states[-1] + (t_next - t) * states[-1] * np.cos(t))
    np.testing.assert_allclose(euler(velocity, X, grid, trajectory=True), states, rtol=1e-6)
    np.testing.assert_allclose(euler(velocity, X, grid), states[-1], rtol=1e-6)


def test_constant_velocity_is_integrated_exactly():
    """The straight path of one image: any number of steps ends on the data."""
    x0, x1 = np.random.default_rng(0).normal(size=(2, 1, 4)).astype(np.float32)
    for num_steps in (2, 9):
        end = euler(lambda x, t: x1 - x0, x0, time_grid(num_steps))
        np.testing.assert_allclose(end, x1, rtol=1e-5, atol=1e-6)


def test_state_stays_float32_under_a_bfloat16_model():
    seen = []

    def low_precision(x, t):
        seen.append((x.dtype, t.dtype))
        return velocity(x, t).astype(jnp.bfloat16)

    assert euler(low_precision, X.astype(jnp.bfloat16), time_grid(3)).dtype == jnp.float32
    assert set(seen) == {(jnp.dtype("float32"), jnp.dtype("float32"))}


def test_integrate_picks_the_solver_by_name():
    grid = time_grid(5)
    np.testing.assert_array_equal(
        integrate("euler", velocity, X, grid, trajectory=True),
        euler(velocity, X, grid, trajectory=True),
    )
    with pytest.raises(ValueError, match=r"eular.*euler"):
        integrate("eular", velocity, X, grid)
