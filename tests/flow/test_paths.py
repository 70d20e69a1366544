import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightningdit_jax.flow.diffusions import DIFFUSIONS, diffusion
from lightningdit_jax.flow.paths import PATHS, get_path
from tests import golden

RELEASE_NAMES = {"linear": "Linear", "gvp": "GVP", "vp": "VP"}
RELEASE_FORMS = {"sbdm": "SBDM", "increasing-decreasing": "inccreasing-decreasing"}


@pytest.fixture(scope="module")
def case():
    """The golden tensors, and a check of one of them by name."""
    tensors, entry = golden.load("transport_plan"), golden.index()["transport_plan"]
    tolerance = entry["tolerance"]

    def check(name, got):
        golden.assert_close(got, tensors[f"out.{name}"], tolerance)

    return tensors, check


@pytest.mark.parametrize("name", PATHS)
def test_matches_the_release(case, name):
    tensors, check = case
    path, theirs = PATHS[name], RELEASE_NAMES[name]
    t = jnp.asarray(tensors["in.t"])
    x0, x1, model = (jnp.asarray(golden.to_nhwc(tensors[f"in.{n}"])) for n in ("x0", "x1", "model"))
    for coefficient in ("alpha", "sigma", "d_alpha", "d_sigma"):
        check(f"{theirs}.{coefficient}", getattr(path, coefficient)(t))
    check(f"{theirs}.d_alpha_alpha_ratio", path.growth(t))
    check(f"{theirs}.drift_var", path.score_weight(t))
    x = path.interpolate(x0, x1, t)
    check(f"{theirs}.xt", golden.to_nchw(x))
    check(f"{theirs}.ut", golden.to_nchw(path.velocity(x0, x1, t)))
    check(f"{theirs}.drift", golden.to_nchw(-path.growth(t)[:, None, None, None] * x))
    for conversion in ("score_from_velocity", "noise_from_velocity", "velocity_from_score"):
        check(f"{theirs}.{conversion}", golden.to_nchw(getattr(path, conversion)(model, x, t)))


@pytest.mark.parametrize("form", DIFFUSIONS)
@pytest.mark.parametrize("name", PATHS)
def test_diffusion_matches_the_release(case, name, form):
    tensors, check = case
    for norm in (1.0, 2.5):
        key = f"{RELEASE_NAMES[name]}.diffusion.{RELEASE_FORMS.get(form, form)}.norm{norm}"
        check(key, diffusion(PATHS[name], form, tensors["in.t"], norm))


@pytest.mark.parametrize("name", ["linear", "gvp"])
def test_ends_are_noise_and_data(name):
    x0, x1 = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    start, end = (PATHS[name].interpolate(x0, x1, jnp.full(3, t)) for t in (0.0, 1.0))
    atol = 0 if name == "linear" else 5e-7
    np.testing.assert_allclose(start, x0, rtol=0, atol=atol)
    np.testing.assert_allclose(end, x1, rtol=0, atol=atol)


@pytest.mark.parametrize("name", PATHS)
def test_velocity_is_the_time_derivative(name):
    path = PATHS[name]
    x0, x1 = np.random.default_rng(1).normal(size=(2, 3, 2, 2)).astype(np.float32)
    t = jnp.array([0.1, 0.5, 0.9])
    _, derivative = jax.jvp(lambda t: path.interpolate(x0, x1, t), (t,), (jnp.ones(3),))
    np.testing.assert_allclose(path.velocity(x0, x1, t), derivative, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["gvp", "vp"])
def test_variance_is_preserved(name):
    t = jnp.linspace(0, 1, 11)
    np.testing.assert_allclose(PATHS[name].alpha(t) ** 2 + PATHS[name].sigma(t) ** 2, 1, rtol=1e-6)


@pytest.mark.parametrize("name", PATHS)
def test_score_and_velocity_undo_each_other(name):
    velocity, x = np.random.default_rng(2).normal(size=(2, 3, 4)).astype(np.float32)
    for t in (jnp.array([0.05, 0.4, 0.95]), jnp.float32(0.4)):
        score = PATHS[name].score_from_velocity(velocity, x, t)
        again = PATHS[name].velocity_from_score(score, x, t)
        np.testing.assert_allclose(again, velocity, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", PATHS)
def test_of_one_image_noise_and_score_are_known(name):
    """Data that are one point: the noise of x_t is x0, and p_t is normal around it."""
    path, t = PATHS[name], jnp.array([0.1, 0.6])
    x0, x1 = np.random.default_rng(3).normal(size=(2, 2, 5)).astype(np.float32)
    x, velocity = path.interpolate(x0, x1, t), path.velocity(x0, x1, t)
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(path.noise_from_velocity(velocity, x, t), x0, **tolerance)
    score = -x0 / np.asarray(path.sigma(t))[:, None]
    np.testing.assert_allclose(path.score_from_velocity(velocity, x, t), score, **tolerance)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"lineer.*linear"):
        get_path("lineer")
    with pytest.raises(ValueError, match=r"sgima.*sigma"):
        diffusion(PATHS["linear"], "sgima", 0.5)
