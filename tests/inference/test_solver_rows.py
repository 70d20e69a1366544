"""A solver is a row and nothing else: one that the package does not know samples as others do."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lightningdit_jax as ldj
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.flow.solver import Solver
from lightningdit_jax.flow.solvers import SOLVERS
from lightningdit_jax.inference.sampling.options import Sampling
from lightningdit_jax.inference.sampling.sampler import initial_noise
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.pixels import to_uint8
from lightningdit_jax.models.vae import VAVAE, VAVAEConfig
from tests.inference.tiny_generator import random_generator

LABELS = np.array([3, 1, 4, 1, 5, 9, 2, 6])


def leap(problem, x, grid, *, extrapolation, trajectory=False):
    """One evaluation at the start, and a step as long as the option says."""
    return x + extrapolation * (grid[-1] - grid[0]) * problem.velocity_fn(x, grid[0])


TOY = Solver(
    leap,
    lambda grid, extrapolation: grid[:1],
    options=("extrapolation",),
    grid=lambda flow, num_steps, timestep_shift: np.float32([0.25, 1]),
    times_by="nothing at all",
)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(SOLVERS, "leap", TOY)


@pytest.mark.slow
def test_it_samples(toy):
    """Against the generator and the decoder called by hand."""
    dit, vae = (
        random_generator(),
        VAVAE(VAVAEConfig(8, 3, 32, (1, 1), 1, (), (), 8, 8), rngs=nnx.Rngs(2)),
    )
    scaling = LatentScaling((0.5,) * 8, (2.0,) * 8)
    images = {
        length: ldj.generate(
            dit, vae, LABELS, solver="leap", extrapolation=length, latent_stats=scaling
        )
        for length in (0.25, 2.0)
    }
    x = initial_noise(0, np.arange(8), (4, 4, 8))
    velocity = dit(x, jnp.full(8, 0.25), jnp.asarray(LABELS))
    for length, found in images.items():
        want = to_uint8(vae.decode(scaling.invert(x + length * 0.75 * velocity)))
        assert np.abs(found.astype(int) - want).max() <= 1, length
    assert np.abs(images[0.25].astype(int) - images[2.0]).max() > 5


def test_its_cost_and_its_times_are_those_of_the_row(toy):
    sampling = Sampling(solver="leap", cfg_scale=2.0)
    assert (sampling.evaluations(), sampling.forward_passes(Flow())) == (1, 2)
    assert (
        Sampling(solver="leap", cfg_scale=2.0, cfg_interval_start=0.3).forward_passes(Flow()) == 1
    )
    with pytest.raises(ValueError, match="the solver leap has times of its own: nothing at all"):
        Sampling(solver="leap", timestep_shift=0.3)
    assert sampling.method().options == (("extrapolation", 0.5),)


def test_it_may_be_for_one_path_alone(monkeypatch):
    monkeypatch.setitem(SOLVERS, "leap", dataclasses.replace(TOY, path="gvp"))
    sampling = Sampling(solver="leap")
    assert sampling.evaluations() == 1 and sampling.grid(Flow("gvp")).size == 2
    with pytest.raises(ValueError, match="needs the path 'gvp', the generator's is 'linear'"):
        sampling.grid(Flow())


def test_a_new_option_is_a_field_and_nothing_else(monkeypatch):
    """Of the options and, where the row names it, of what a program is compiled for."""
    options = dataclasses.make_dataclass(
        "Options", [("strength", float, 2.0)], bases=(Sampling,), frozen=True, kw_only=True
    )
    row = dataclasses.replace(
        TOY, options=("strength",), evaluation_times=lambda grid, strength: grid
    )
    monkeypatch.setitem(SOLVERS, "leap", row)
    assert options(solver="leap", strength=3.0).method().options == (("strength", 3.0),)
    assert options(solver="euler", strength=3.0).method().options == ()
    with pytest.raises(ValueError, match="strength is nan; expected a finite number"):
        options(solver="leap", strength=float("nan"))


def test_options_of_another_solver_are_refused_from_python():
    """They used to be ignored."""
    for options, reason in [
        ({"rtol": 1e-4}, "rtol is given, but the solver 'euler' does not read it; .*: dopri5"),
        ({"solver": "sde_heun", "time_warp": (1.0, 1.0, 1.0)}, "'sde_heun' does not .*: ucgm"),
        ({"solver": "ucgm", "last_step": "mean"}, "choose a solver .*: sde_euler, sde_heun"),
        ({"cfg_scal": 2.0}, "unknown sampling option 'cfg_scal'; did you mean 'cfg_scale'"),
        ({"solver": "eular"}, "unknown solver 'eular'; did you mean 'euler'"),
    ]:
        dit, vae = (
            random_generator(),
            VAVAE(VAVAEConfig(8, 3, 32, (1,), 1, (), (), 8, 8), rngs=nnx.Rngs(0)),
        )
        with pytest.raises(ValueError, match=reason):
            ldj.generate(dit, vae, LABELS, latent_stats="none", **options)
