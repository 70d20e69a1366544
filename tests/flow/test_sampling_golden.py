"""Every solver on the real model, with and without guidance, against the release's trajectories."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.convert.convert import params_from_torch
from lightningdit_jax.flow.guidance import guide
from lightningdit_jax.flow.likelihood import log_likelihood
from lightningdit_jax.flow.ode import evaluations, integrate
from lightningdit_jax.flow.paths import get_path
from lightningdit_jax.flow.predictions import to_velocity
from lightningdit_jax.flow.sde import SDEOptions, integrate_sde, sde_grid
from lightningdit_jax.flow.timesteps import time_grid
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.models.rngs import CountedRngs
from tests import golden

FIXED = [
    "sample_ode_euler",
    "sample_ode_euler_2steps",
    "sample_ode_euler_shift",
    "sample_ode_midpoint",
    "sample_ode_heun2",
    "sample_ode_heun3",
    "sample_ode_rk4",
    "sample_ode_gvp_euler",
    "sample_ode_vp_euler",
    "sample_ode_linear_noise_euler",
    "sample_ode_linear_score_heun2",
]
FIXED_CFG = [
    "sample_ode_euler_cfg_interval",
    "sample_ode_euler_cfg_interval_shift",
    "sample_ode_euler_cfg_no_interval",
    "sample_ode_heun2_shift_cfg",
]
ADAPTIVE = [
    "sample_ode_dopri5",
    pytest.param("sample_ode_dopri5_tight", marks=pytest.mark.slow),
    "sample_ode_dopri5_shift_cfg",
    "sample_ode_gvp_score_dopri5",
]
# The release looks at t[0] alone, and our t is a scalar: its case of mixed times has no equal.
CALLS = ["below", "above", "equal", "no_interval", "none", "scale1"]
SDE_ROWS = {row["name"]: row for row in golden.index()["sample_sde"]["config"]["rows"]}


@functools.cache
def model_of(weights: str, dtype: str = "float32"):
    """output(x, t, y) of the model that a case runs with; t a scalar."""
    config, params = params_from_torch("lightningdit", golden.load_file(golden.GOLDEN / weights))
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    graphdef = nnx.graphdef(
        nnx.eval_shape(lambda: LightningDiT(config, dtype=jnp.dtype(dtype), rngs=CountedRngs(0)))
    )
    return lambda x, t, y: nnx.merge(graphdef, params)(x, jnp.full(len(x), t), y)


def velocity_of(entry: dict, labels: np.ndarray, model=None):
    """velocity(x, t) of a case without guidance, whatever its path and prediction."""
    model = model or model_of(entry["weights"])
    path = get_path(entry["config"].get("path_type", "Linear").lower())
    prediction = entry["config"].get("prediction", "velocity")
    return lambda x, t: to_velocity(path, prediction, model(x, t, jnp.asarray(labels)), x, t)


def guided_of(name: str, cfg_scale: float, interval_start: float):
    """Guided velocity of a case, on the first half of its labels; the second half are null."""
    y = golden.load(name)["in.y"]
    labels, null_label = jnp.asarray(y[: len(y) // 2]), int(y[-1])
    model = model_of(golden.index()[name]["weights"])
    return guide(
        lambda x, t, y: model(x, t[0], y),
        labels,
        null_label,
        cfg_scale=cfg_scale,
        interval_start=interval_start,
    )


@functools.cache
def jitted_guided_of(name: str, cfg_scale: float, interval_start: float):
    return jax.jit(guided_of(name, cfg_scale, interval_start))


def guided_as_the_release(model, y: np.ndarray, cfg_scale: float, interval_start: float):
    """velocity(x, t) of a whole doubled batch, whose second half the release carries along."""
    half = len(y) // 2

    def velocity(x, t):
        output = model(jnp.concatenate([x[:half], x[:half]]), t, jnp.asarray(y))
        v_label, v_null = output[:half, ..., :3], output[half:, ..., :3]
        scale = jnp.where(t >= interval_start, cfg_scale, 1.0)
        guided = v_null + scale * (v_label - v_null)
        return jnp.concatenate([jnp.concatenate([guided, guided]), output[..., 3:]], axis=-1)

    return velocity


def interval_start(call: dict) -> float:
    return call["cfg_interval_start"] if call["cfg_interval"] else 0.0


def grid_of(config: dict) -> np.ndarray:
    return time_grid(config["num_steps"], config.get("timestep_shift", 0.0), config["interval"])


def record_times(velocity):
    """The velocity, and the list that it appends each time it is asked about to."""
    times = []

    def recording(x, t):
        jax.debug.callback(lambda t: times.append(float(t)), t, ordered=True)
        return velocity(x, t)

    return recording, times


@pytest.mark.parametrize("name", FIXED)
def test_trajectory(name):
    case, entry = golden.load(name), golden.index()[name]
    solver, grid = entry["config"]["sampling_method"], grid_of(entry["config"])
    velocity = velocity_of(entry, case["in.y"])
    sample = jax.jit(lambda x: integrate(solver, velocity, x, grid, trajectory=True))
    trajectory = golden.to_nchw(sample(golden.to_nhwc(case["in.z"])))
    golden.assert_close(trajectory, case["out.traj"], entry["tolerance"])


@pytest.mark.parametrize("name", FIXED)
def test_times_of_the_evaluations(name):
    """On a fixed grid they do not depend on the model."""
    config = golden.index()[name]["config"]
    solver, grid = config["sampling_method"], grid_of(config)
    velocity, times = record_times(lambda x, t: x)
    jax.block_until_ready(integrate(solver, velocity, jnp.zeros(1), grid))
    jax.effects_barrier()
    assert len(times) == evaluations(solver, len(grid)) == config["nfe"]
    np.testing.assert_allclose(times, golden.load(name)["aux.t_evals"], rtol=1e-6)


@pytest.mark.parametrize("name", FIXED_CFG)
def test_guided_trajectory(name):
    """The release carries the unconditional half along; its first half is the sample."""
    case, entry = golden.load(name), golden.index()[name]
    config, half = entry["config"], len(case["in.y"]) // 2
    velocity = guided_of(name, config["cfg_scale"], interval_start(config))
    solver, grid = config["sampling_method"], grid_of(config)
    sample = jax.jit(lambda x: integrate(solver, velocity, x, grid, trajectory=True))
    trajectory = sample(golden.to_nhwc(case["in.z"][:half]))
    golden.assert_close(golden.to_nchw(trajectory), case["out.traj"][:, :half], entry["tolerance"])


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_trajectory(name):
    """Matrix products are in float64 here: the error of the first, tiny step is their rounding.

    It decides the size of the second one, and so all the times after it.
    """
    case, entry = golden.load(name), golden.index()[name]
    config, y = entry["config"], case["in.y"]
    with jax.enable_x64():
        model = model_of(entry["weights"], "float64")
        if "cfg_scale" in config:
            start = interval_start(config)
            velocity = guided_as_the_release(model, y, config["cfg_scale"], start)
        else:
            velocity = velocity_of(entry, y, model)
        velocity, times = record_times(velocity)
        sample = functools.partial(
            integrate,
            "dopri5",
            velocity,
            grid=grid_of(config),
            trajectory=True,
            rtol=config["rtol"],
            atol=config["atol"],
        )
        trajectory = jax.jit(sample)(x=golden.to_nhwc(case["in.z"]))
        jax.effects_barrier()
    golden.assert_close(golden.to_nchw(trajectory), case["out.traj"], entry["tolerance"])
    assert len(times) == config["nfe"]
    np.testing.assert_allclose(times, case["aux.t_evals"], rtol=5e-3)


def test_reverse_trajectory():
    case, entry = (
        golden.load("sample_ode_reverse_fixed"),
        golden.index()["sample_ode_reverse_fixed"],
    )
    velocity = velocity_of(entry, case["in.y"])
    grid = time_grid(entry["config"]["num_steps"])[::-1]
    sample = jax.jit(lambda x: integrate("euler", velocity, x, grid, trajectory=True))
    trajectory = golden.to_nchw(sample(golden.to_nhwc(case["in.z"])))
    golden.assert_close(trajectory, case["out.traj_negated"], entry["tolerance"])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("sample_ode_likelihood_euler", marks=pytest.mark.slow),
        "sample_ode_likelihood_heun2",
    ],
)
def test_likelihood(name):
    case, entry = golden.load(name), golden.index()[name]
    config, probes = entry["config"], jnp.asarray(golden.to_nhwc(case["in.eps"]))
    velocity = velocity_of(entry, case["in.y"])
    grid = time_grid(config["num_steps"])[::-1]
    log_p, noise = jax.jit(
        lambda x: log_likelihood(
            config["sampling_method"], velocity, x, grid, lambda number: probes[number]
        )
    )(golden.to_nhwc(case["in.x"]))
    golden.assert_close(log_p, case["out.logp"], entry["tolerance"])
    golden.assert_close(golden.to_nchw(noise), case["out.x0"], entry["tolerance"])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.startswith("Heun.sigma") else name
        for name in SDE_ROWS
    ],
)
def test_sde_trajectory(name):
    case, entry, row = golden.load("sample_sde"), golden.index()["sample_sde"], SDE_ROWS[name]
    path, prediction = get_path(row["path_type"].lower()), row["prediction"]
    options = SDEOptions(
        method=row["sampling_method"].lower(),
        diffusion=row["diffusion_form"].lower().replace("inccreasing", "increasing"),
        diffusion_norm=row["diffusion_norm"],
        last_step=str(row["last_step"]).lower(),
        last_step_size=row["last_step_size"],
    )
    eps = row["sample_eps"] or 0.0
    grid = sde_grid(path, prediction, row["num_steps"], options, eps)
    np.testing.assert_allclose(grid[[0, -1]], [row["t0"], row["t1"]], rtol=1e-6)
    velocity = velocity_of(entry | {"config": row}, case["in.y"])
    noise = jnp.asarray(golden.to_nhwc(case["in.noise"]))
    sample = jax.jit(
        lambda x: integrate_sde(
            path, velocity, x, grid, lambda step: noise[step], options, trajectory=True
        )
    )
    trajectory = golden.to_nchw(sample(golden.to_nhwc(case["in.z"])))
    tolerance = entry["tolerance"] | {"atol": row["atol"]}
    golden.assert_close(trajectory, case[f"out.{name}"], tolerance)


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
