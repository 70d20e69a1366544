"""Guidance and Euler on the real model, against the release's trajectories."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.convert.convert import params_from_torch
from lightningdit_jax.flow.guidance import guide
from lightningdit_jax.flow.ode import euler
from lightningdit_jax.flow.timesteps import time_grid
from lightningdit_jax.models.lightningdit import LightningDiT
from tests import golden

EULER = ["sample_ode_euler", "sample_ode_euler_2steps", "sample_ode_euler_shift"]
EULER_CFG = [
    "sample_ode_euler_cfg_interval",
    "sample_ode_euler_cfg_interval_shift",
    "sample_ode_euler_cfg_no_interval",
]
# The release looks at t[0] alone, and our t is a scalar: its case of mixed times has no equal.
CALLS = ["below", "above", "equal", "no_interval", "none", "scale1"]


@functools.cache
def velocity_of(weights: str):
    """velocity(x, t, y) of the model that a case runs with."""
    config, params = params_from_torch("lightningdit", golden.load_file(golden.GOLDEN / weights))
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: LightningDiT(config, rngs=nnx.Rngs(0))))
    return lambda x, t, y: nnx.merge(graphdef, params)(x, t, y)


def guided_of(name: str, cfg_scale: float, interval_start: float):
    """Guided velocity of a case, on the first half of its labels; the second half are null."""
    y = golden.load(name)["in.y"]
    labels, null_label = jnp.asarray(y[: len(y) // 2]), int(y[-1])
    return guide(
        velocity_of(golden.index()[name]["weights"]),
        labels,
        null_label,
        cfg_scale=cfg_scale,
        interval_start=interval_start,
    )


@functools.cache
def jitted_guided_of(name: str, cfg_scale: float, interval_start: float):
    return jax.jit(guided_of(name, cfg_scale, interval_start))


def interval_start(call: dict) -> float:
    return call["cfg_interval_start"] if call["cfg_interval"] else 0.0


@pytest.mark.parametrize("name", EULER)
def test_trajectory(name):
    case, entry = golden.load(name), golden.index()[name]
    velocity, labels = velocity_of(entry["weights"]), jnp.asarray(case["in.y"])
    grid = time_grid(entry["config"]["num_steps"], entry["config"].get("timestep_shift", 0.0))

    @jax.jit
    def sample(x):
        return euler(
            lambda x, t: velocity(x, jnp.full(len(x), t), labels), x, grid, trajectory=True
        )

    trajectory = sample(golden.to_nhwc(case["in.z"]))
    golden.assert_close(golden.to_nchw(trajectory), case["out.traj"], entry["tolerance"])


@pytest.mark.parametrize("name", EULER_CFG)
def test_guided_trajectory(name):
    """The release carries the unconditional half along; its first half is the sample."""
    case, entry = golden.load(name), golden.index()[name]
    config, half = entry["config"], len(case["in.y"]) // 2
    velocity = guided_of(name, config["cfg_scale"], interval_start(config))
    grid = time_grid(config["num_steps"], config.get("timestep_shift", 0.0))
    sample = jax.jit(lambda x: euler(velocity, x, grid, trajectory=True))
    trajectory = sample(golden.to_nhwc(case["in.z"][:half]))
    golden.assert_close(golden.to_nchw(trajectory), case["out.traj"][:, :half], entry["tolerance"])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["lightningdit_cfg_default", "lightningdit_cfg_learn_sigma"])
def test_guided_velocity(name, call):
    case, entry = golden.load(name), golden.index()[name]
    half, times = len(case["in.y"]) // 2, case[f"in.{call}.t"]
    assert np.unique(times).size == 1
    config = entry["config"]["calls"][call]
    velocity = jitted_guided_of(name, config["cfg_scale"], interval_start(config))
    v = velocity(golden.to_nhwc(case["in.x"][:half]), times[0])
    golden.assert_close(golden.to_nchw(v), case[f"out.{call}"][:half], entry["tolerance"])
