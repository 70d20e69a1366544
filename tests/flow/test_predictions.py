import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightningdit_jax.flow.paths import PATHS
from lightningdit_jax.flow.predictions import (
    LOSS_WEIGHTS,
    PREDICTIONS,
    SAMPLE_EPS,
    prediction_loss,
    time_interval,
    to_score,
    to_velocity,
    train_eps,
)
from lightningdit_jax.flow.sde import SDEOptions, sde_grid
from tests import golden
from tests.flow.gaussian import GaussianFlow
from tests.flow.test_losses import golden_model

LOSS_ROWS = {row["name"]: row for row in golden.index()["transport_losses"]["config"]["rows"]}
INTERVALS = json.loads((golden.GOLDEN / "transport_check_interval.json").read_text())["rows"]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["Linear", "GVP", "VP"])
def test_drift_and_score_match_the_release(name, prediction):
    case, entry = golden.load("transport_drift_score"), golden.index()["transport_drift_score"]
    path, t = PATHS[name.lower()], jnp.asarray(case["in.t"])
    x = jnp.asarray(golden.to_nhwc(case["in.x"]))
    output = golden_model(x, t)
    for key, convert in (("drift", to_velocity), ("score", to_score)):
        got = golden.to_nchw(convert(path, prediction, output, x, t))
        golden.assert_close(got, case[f"out.{name}.{prediction}.{key}"], entry["tolerance"])


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", PATHS)
def test_every_prediction_of_a_known_flow_is_the_same_flow(name, prediction):
    path, t = PATHS[name], jnp.float32(0.3)
    flow, x = GaussianFlow(path=path), jnp.linspace(-2, 3, 12).reshape(3, 4)
    score = flow.score(x, t)
    output = {
        "velocity": flow.velocity(x, t),
        "noise": -path.sigma(t) * score,
        "score": score,
    }[prediction]
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    velocity = to_velocity(path, prediction, output, x, t)
    np.testing.assert_allclose(velocity, flow.velocity(x, t), **tolerance)
    np.testing.assert_allclose(to_score(path, prediction, output, x, t), score, **tolerance)


@pytest.mark.parametrize("name", LOSS_ROWS)
def test_loss_matches_the_release(name):
    row, case = LOSS_ROWS[name], golden.load("transport_losses")
    tolerance = golden.index()["transport_losses"]["tolerance"]
    path, t = PATHS[row["path_type"].lower()], jnp.asarray(case["in.t"])
    x0, x1 = (jnp.asarray(golden.to_nhwc(case[key])) for key in ("in.x0", "in.x1"))
    output = golden_model(path.interpolate(x0, x1, t), t)
    golden.assert_close(golden.to_nchw(output), case[f"out.{row['path_type']}.pred"], tolerance)
    weight = row["loss_weight"] or "none"

    def total(output):
        losses = prediction_loss(path, row["prediction"], weight, output, x0, x1, t)
        loss = losses["mse"].mean()
        if row["use_cosine_loss"]:
            loss += losses["cosine"].mean()
        return loss, losses

    (loss, losses), gradient = jax.value_and_grad(total, has_aux=True)(output)
    golden.assert_close(losses["mse"], case[f"out.{name}.loss"], tolerance)
    if row["use_cosine_loss"]:
        golden.assert_close(losses["cosine"], case[f"out.{name}.cos_loss"], tolerance)
    golden.assert_close(loss, case[f"out.{name}.total"], tolerance)
    golden.assert_close(golden.to_nchw(gradient), case[f"out.{name}.grad"], tolerance)


@pytest.mark.parametrize("prediction", ["noise", "score"])
@pytest.mark.parametrize("name", PATHS)
def test_velocity_weight_is_the_squared_error_of_the_velocity(name, prediction):
    path, t = PATHS[name], jnp.array([0.2, 0.5, 0.8])
    x0, x1, output = jax.random.normal(jax.random.key(0), (3, 3, 2, 4))
    x = path.interpolate(x0, x1, t)
    velocity = to_velocity(path, prediction, output, x, t)
    want = ((velocity - path.velocity(x0, x1, t)) ** 2).mean((1, 2))
    got = prediction_loss(path, prediction, "velocity", output, x0, x1, t)
    np.testing.assert_allclose(got["mse"], want, rtol=1e-4)
    assert set(got) == {"mse"}


def interval(row: dict, call: dict) -> tuple[float, float]:
    """Ours, of a golden call that is not reversed: a reversed grid is the same interval."""
    path, prediction = PATHS[row["path_type"].lower()], row["prediction"]
    if not call.get("eval"):
        eps = train_eps(path) if row["train_eps"] is None else row["train_eps"]
        return time_interval(path, prediction, eps)
    eps = SAMPLE_EPS if row["sample_eps"] is None else row["sample_eps"]
    if not call.get("sde"):
        return time_interval(path, prediction, eps)
    size = call["last_step_size"]
    options = SDEOptions(
        diffusion=call.get("diffusion_form", "SBDM").lower(),
        last_step="mean" if size else "none",
        last_step_size=size,
    )
    return tuple(sde_grid(path, prediction, 2, options, eps))


def test_intervals_match_the_release():
    """Where it fails (no eps of sampling) or starts at a 1 / 0 ("SBDM" of a velocity), eps is."""
    calls = [(row, call) for row in INTERVALS for call in row["calls"]]
    compared = 0
    for row, call in calls:
        if call["kwargs"].get("reverse"):
            continue
        first, last = interval(row, call["kwargs"])
        assert 0 <= first < last <= 1
        if "t1" in call:
            assert last == pytest.approx(call["t1"])
        if call.get("t0"):
            assert first == pytest.approx(call["t0"])
        elif call.get("t0") == 0:
            infinite = call["kwargs"].get("sde") and "diffusion_form" not in call["kwargs"]
            path = PATHS[row["path_type"].lower()]
            assert (first > 0) == bool(infinite and path.starts_at_pure_noise)
        compared += 1
    assert compared == 6 * len(INTERVALS)


def test_unknown_and_unfit_names_are_refused():
    x, t, path = jnp.ones((2, 3)), jnp.full(2, 0.5), PATHS["linear"]
    for convert in (to_velocity, to_score):
        with pytest.raises(ValueError, match=r"velocty.*velocity"):
            convert(path, "velocty", x, x, t)
    with pytest.raises(ValueError, match=r"nois.*noise"):
        time_interval(path, "nois", 0.1)
    with pytest.raises(ValueError, match=r"likelyhood.*likelihood"):
        prediction_loss(path, "noise", "likelyhood", x, x, x, t)
    for weight in LOSS_WEIGHTS[1:]:
        with pytest.raises(ValueError, match=rf"{weight}.*expected 'none'"):
            prediction_loss(path, "velocity", weight, x, x, x, t)
