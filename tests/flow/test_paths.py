import jax
import jax.numpy as jnp
import numpy as np

from lightningdit_jax.flow.paths import LinearPath
from tests import golden

PATH = LinearPath()


def test_matches_the_release():
    case, tolerance = golden.load("transport_plan"), golden.index()["transport_plan"]["tolerance"]
    t, x0, x1 = (jnp.asarray(case[f"in.{name}"]) for name in ("t", "x0", "x1"))
    x0, x1 = golden.to_nhwc(x0), golden.to_nhwc(x1)
    for name in ("alpha", "sigma", "d_alpha", "d_sigma"):
        golden.assert_close(getattr(PATH, name)(t), case[f"out.Linear.{name}"], tolerance)
    x_t, u_t = PATH.interpolate(x0, x1, t), PATH.velocity(x0, x1, t)
    golden.assert_close(golden.to_nchw(x_t), case["out.Linear.xt"], tolerance)
    golden.assert_close(golden.to_nchw(u_t), case["out.Linear.ut"], tolerance)


def test_ends_are_exactly_noise_and_data():
    x0, x1 = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(PATH.interpolate(x0, x1, jnp.zeros(3)), x0)
    np.testing.assert_array_equal(PATH.interpolate(x0, x1, jnp.ones(3)), x1)


def test_velocity_is_the_time_derivative():
    x0, x1 = np.random.default_rng(1).normal(size=(2, 3, 2, 2)).astype(np.float32)
    t = jnp.array([0.1, 0.5, 0.9])
    _, derivative = jax.jvp(lambda t: PATH.interpolate(x0, x1, t), (t,), (jnp.ones(3),))
    np.testing.assert_allclose(PATH.velocity(x0, x1, t), derivative, rtol=1e-6, atol=1e-6)
