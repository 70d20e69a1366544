import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightningdit_jax.flow.timesteps import (
    logit_normal,
    sample_timesteps,
    shift_timesteps,
    time_grid,
)
from tests import golden
from tests.flow import torch_grids

EULER_CASES = [
    "sample_ode_euler",
    "sample_ode_euler_2steps",
    "sample_ode_euler_shift",
    "sample_ode_euler_cfg_interval",
    "sample_ode_euler_cfg_interval_shift",
    "sample_ode_euler_cfg_no_interval",
]


def test_logit_normal_matches_the_release():
    case = golden.load("transport_logit_normal")
    entry = golden.index()["transport_logit_normal"]
    z = jnp.asarray(case["in.z"])
    golden.assert_close(logit_normal(z), case["out.t"], entry["tolerance"])
    mean, std = entry["config"]["mu_sigma"]
    golden.assert_close(logit_normal(z, mean, std), case["out.t_mu_sigma"], entry["tolerance"])


def test_logit_normal_draws_have_the_normal_behind_the_sigmoid():
    t = np.asarray(sample_timesteps(jax.random.key(0), 20_000, "logit_normal", -0.5, 1.25))
    assert t.dtype == np.float32 and t.min() > 0 and t.max() < 1
    z = np.log(t / (1 - t))
    # Five standard errors of a mean and of a standard deviation.
    assert abs(z.mean() + 0.5) < 5 * 1.25 / 20_000**0.5
    assert abs(z.std() - 1.25) < 5 * 1.25 / 40_000**0.5


def test_uniform_draws_fill_the_unit_interval():
    t = np.sort(sample_timesteps(jax.random.key(0), 20_000, "uniform"))
    assert t.dtype == np.float32 and t[0] >= 0 and t[-1] < 1
    # Kolmogorov-Smirnov: 1.63 / sqrt(n) is the 1 % point, 2.2 far beyond it.
    assert np.abs(t - np.linspace(0, 1, 20_000)).max() < 2.2 / 20_000**0.5


def test_same_key_same_draws():
    for distribution in ("logit_normal", "uniform"):
        first, again, other = (
            sample_timesteps(jax.random.key(k), 4, distribution) for k in (3, 3, 4)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


def test_unknown_distribution_names_the_nearest():
    with pytest.raises(ValueError, match=r"lognormal.*logit_normal"):
        sample_timesteps(jax.random.key(0), 4, "lognormal")


@pytest.mark.parametrize("name", EULER_CASES)
def test_grid_is_bit_identical_to_the_release(name):
    config = golden.index()[name]["config"]
    grid = time_grid(config["num_steps"], config.get("timestep_shift", 0.0))
    np.testing.assert_array_equal(grid, golden.load(name)["out.t_grid"])
    assert grid.dtype == np.float32


@pytest.mark.parametrize(
    "want",
    json.loads(torch_grids.FILE.read_text()),
    ids=lambda want: f"{want['ends']} shift {want['shift']}",
)
def test_grids_of_every_length_are_those_of_torch(want):
    """PyTorch wrote the values of a few lengths, and one digest over all from 2 to 1200."""
    digest = hashlib.sha256()
    for length in torch_grids.LENGTHS:
        grid = time_grid(length, want["shift"], want["ends"])
        if str(length) in want:
            np.testing.assert_array_equal(grid, np.float32(want[str(length)]))
        digest.update(grid.astype("<f4").tobytes())
    assert digest.hexdigest() == want["sha256"]


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0, 3.0])
def test_grid_runs_from_noise_to_data(shift):
    grid = time_grid(250, shift)
    assert len(grid) == 250 and grid[0] == 0 and grid[-1] == 1 and (np.diff(grid) > 0).all()


def test_shift_moves_towards_noise_below_one_and_undoes_itself():
    t = np.linspace(0.01, 0.99, 50, dtype=np.float32)
    assert (shift_timesteps(t, 0.3) < t).all() and (shift_timesteps(t, 3.0) > t).all()
    back = shift_timesteps(shift_timesteps(t, 0.3), 1 / 0.3)
    np.testing.assert_allclose(back, t, rtol=1e-6)
    np.testing.assert_array_equal(shift_timesteps(t, 0), t)
    np.testing.assert_array_equal(shift_timesteps(t, 1), t)


def test_bad_grids_are_refused():
    with pytest.raises(ValueError, match="num_steps is 1"):
        time_grid(1)
    with pytest.raises(ValueError, match=r"shift is -0\.3"):
        time_grid(10, -0.3)
