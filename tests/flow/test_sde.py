import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightningdit_jax.flow.diffusions import DIFFUSIONS
from lightningdit_jax.flow.ode import integrate
from lightningdit_jax.flow.paths import PATHS
from lightningdit_jax.flow.sde import SDEOptions, integrate_sde, sample_noise, sde_grid
from tests.flow import torch_grids
from tests.flow.gaussian import GaussianFlow, noise
from tests.xla_flags import OPTIMIZED

LINEAR = PATHS["linear"]


def solve(flow, options, *, batch=4, num_steps=9, seed=0, start=0, **settings):
    """Samples of a Gaussian flow [batch, 2], from the same noise whatever the options."""
    indices = start + jnp.arange(batch)
    draws = sample_noise(seed, indices, (2,))
    grid = sde_grid(flow.path, "velocity", num_steps, options)
    return jax.jit(
        lambda: integrate_sde(
            flow.path, flow.velocity, draws(1_000_000), grid, draws, options, **settings
        ),
        compiler_options=OPTIMIZED if batch > 1000 else None,
    )()


def assert_distributed(samples, mean, std, bias):
    """Mean and standard deviation within `bias` and five standard errors."""
    samples = np.asarray(samples)
    error = 5 * std / samples.size**0.5
    assert samples.mean() == pytest.approx(mean, abs=bias + error)
    assert samples.std() == pytest.approx(std, abs=bias + error)


@pytest.mark.parametrize("method", ["euler", pytest.param("heun", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", DIFFUSIONS)
def test_samples_are_distributed_as_the_data(form, method):
    """Whatever the diffusion: it does not change the marginals. The bias is of the steps."""
    flow, options = GaussianFlow(), SDEOptions(method, form, last_step_size=0.005)
    samples = solve(flow, options, batch=10_000, num_steps=200)
    assert_distributed(samples, flow.mean, flow.std, bias=0.015)


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("gvp", "sbdm"),
        ("vp", "sigma"),
        pytest.param("gvp", "sigma", marks=pytest.mark.slow),
        pytest.param("vp", "sbdm", marks=pytest.mark.slow),
    ],
)
def test_other_paths(path, form):
    flow, options = GaussianFlow(path=PATHS[path]), SDEOptions("heun", form, last_step="tweedie")
    samples = solve(flow, options, batch=10_000, num_steps=200)
    # The mean of the data given x_t, which the last step returns, varies less than the data.
    assert_distributed(samples, flow.mean, flow.std, bias=0.03)


@pytest.mark.parametrize(("method", "solver"), [("euler", "euler"), ("heun", "heun2")])
def test_without_diffusion_it_is_the_ode(method, solver):
    flow = GaussianFlow()
    options = SDEOptions(method, "constant", 0.0, last_step="mean", last_step_size=0.1)
    trajectory = solve(flow, options, num_steps=10, trajectory=True)
    grid = np.linspace(0, 0.9, 10).astype(np.float32)
    x = sample_noise(0, jnp.arange(4), (2,))(1_000_000)
    states = integrate(solver, flow.velocity, x, grid, trajectory=True)
    np.testing.assert_allclose(trajectory[:-1], states[1:], rtol=1e-5, atol=1e-6)
    last = states[-1] + 0.1 * flow.velocity(states[-1], grid[-1])
    np.testing.assert_allclose(trajectory[-1], last, rtol=1e-5, atol=1e-6)


def test_tweedie_is_the_expected_data():
    flow, options = GaussianFlow(), SDEOptions(last_step="tweedie", last_step_size=0.3)
    *_, x, data = np.asarray(solve(flow, options, trajectory=True))
    gain = 0.7 * flow.std**2 / flow.variance(0.7)
    np.testing.assert_allclose(data, flow.mean + gain * (x - 0.7 * flow.mean), rtol=1e-4)


def test_no_last_step_ends_at_the_last_state():
    options = SDEOptions(last_step="none")
    assert sde_grid(LINEAR, "velocity", 9, options)[-1] == 1
    trajectory = solve(GaussianFlow(), options, trajectory=True)
    assert trajectory.shape == (9, 4, 2) and np.isfinite(trajectory).all()
    np.testing.assert_array_equal(trajectory[-1], trajectory[-2])
    np.testing.assert_array_equal(trajectory[-1], solve(GaussianFlow(), options))


def test_a_sample_depends_on_its_index_alone():
    whole = solve(GaussianFlow(), SDEOptions())
    part = solve(GaussianFlow(), SDEOptions(), batch=2, start=1)
    np.testing.assert_allclose(part, whole[1:3], rtol=1e-6)
    assert np.abs(whole - solve(GaussianFlow(), SDEOptions(), seed=1)).min() > 1e-3


def test_noise_of_every_step_and_sample_is_its_own():
    draw = sample_noise(0, jnp.arange(100), (50,))
    first, second = draw(0), draw(1)
    correlation = np.corrcoef(np.stack([first.ravel(), second.ravel(), first[::-1].ravel()]))
    assert np.abs(correlation - np.eye(3)).max() < 5 / 5000**0.5
    assert first.mean() == pytest.approx(0, abs=5 / 5000**0.5)
    assert first.std() == pytest.approx(1, abs=5 / 10_000**0.5)


def test_the_model_is_traced_once_for_the_steps_and_once_for_the_last():
    for method in ("euler", "heun"):
        calls = []

        def counted(x, t, calls=calls):
            calls.append(None)
            return x

        options = SDEOptions(method)
        grid = sde_grid(LINEAR, "velocity", 9, options)
        jax.jit(
            lambda x, counted=counted, grid=grid, options=options: integrate_sde(
                LINEAR, counted, x, grid, lambda step: x, options
            )
        ).lower(noise(2, 2))
        assert len(calls) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "hoin"}, "SDE method 'hoin'"),
        ({"diffusion": "SBMD"}, "diffusion form 'SBMD'"),
        ({"last_step": "Mean"}, "last step 'Mean'"),
        ({"last_step_size": 0.0}, "last_step_size is 0.0"),
        ({"diffusion_norm": -1.0}, "diffusion_norm is -1.0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SDEOptions(**options)


def test_grids_of_every_length_are_those_of_torch():
    recorded = json.loads(torch_grids.FILE.read_text())
    [want] = [w["sha256"] for w in recorded if w["ends"] == [0, 0.96] and w["shift"] == 0]
    grids = [sde_grid(LINEAR, "velocity", n, SDEOptions()) for n in torch_grids.LENGTHS]
    assert hashlib.sha256(np.concatenate(grids).astype("<f4").tobytes()).hexdigest() == want


def test_heun_needs_a_last_step():
    """Its second evaluation would be at t = 1; the release returns NaN."""
    options = SDEOptions("heun", last_step="none")
    with pytest.raises(ValueError, match="infinite"):
        sde_grid(LINEAR, "velocity", 9, options)
    assert sde_grid(PATHS["vp"], "velocity", 9, options)[-1] < 1
    with pytest.raises(ValueError, match="num_steps is 1"):
        sde_grid(LINEAR, "velocity", 1, SDEOptions())
