import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightningdit_jax.flow.ode import integrate
from lightningdit_jax.flow.paths import PATHS
from lightningdit_jax.flow.predictions import (
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


RELEASED = ("velocity", "noise", "score")


@pytest.mark.parametrize("prediction", RELEASED)
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
    output = flow.predicted(prediction, x, t)
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


def test_data_of_a_velocity_and_back():
    for path in PATHS.values():
        flow, x, t = GaussianFlow(path=path), jnp.linspace(-2, 3, 12).reshape(3, 4), 0.3
        data = path.data_from_velocity(flow.velocity(x, t), x, t)
        np.testing.assert_allclose(data, flow.predicted("data", x, t), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            path.velocity_from_data(data, x, t), flow.velocity(x, t), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("solver", ["euler", "heun2"])
def test_a_perfect_model_of_any_prediction_samples_the_same(solver):
    """Where data stand for a velocity without a floor, the trajectories are one."""
    flow, path = GaussianFlow(), PATHS["linear"]
    x, grid = jnp.linspace(-2, 2, 5)[:, None], np.linspace(0.01, 0.94, 12)

    def final(prediction, grid=grid):
        def velocity(x, t):
            return to_velocity(path, prediction, flow.predicted(prediction, x, t), x, t)

        return integrate(solver, velocity, x, grid)

    want = final("velocity")
    for prediction in PREDICTIONS[1:]:
        np.testing.assert_allclose(final(prediction), want, rtol=1e-4, atol=1e-4)
    # From 0.95 on the speed is (1 - t) / 0.05 times the flow's, half of it on the mean.
    whole = np.append(grid, np.linspace(0.95, 1, 9))
    last, end = flow.transport(x, 0.01, 0.95), flow.transport(x, 0.01, 1.0)
    left = final("data", whole) - final("velocity", whole)
    np.testing.assert_allclose(left, (last - end) / 2, atol=0.009)


def jit_table(prediction, output, z, t):
    """(x, noise, velocity) from a model's output, as JiT's table 1 has them, with its floor."""
    floor = np.maximum(1 - t, 0.05)
    if prediction == "data":
        return output, (z - t * output) / floor, (output - z) / floor
    if prediction == "noise":
        return (z - (1 - t) * output) / t, output, (z - output) / t
    return (1 - t) * output + z, z - t * output, output


@pytest.mark.parametrize("loss", ["data", "noise", "velocity"])
@pytest.mark.parametrize("prediction", ["data", "noise", "velocity"])
def test_nine_losses(prediction, loss):
    """Value and gradient of each pair, against its table by hand in float64."""
    t = np.array([0.2, 0.5, 0.97])[:, None]
    x0, x1, output = np.random.default_rng(0).normal(size=(3, 3, 4))
    z = t * x1 + (1 - t) * x0
    perfect = {"data": x1, "noise": x0, "velocity": x1 - x0}[prediction]
    place = ("data", "noise", "velocity").index(loss)
    got, want = (jit_table(prediction, out, z, t)[place] for out in (output, perfect))
    wants = ((got - want) ** 2).mean(1)
    step = (jit_table(prediction, output + 1e-3, z, t)[place] - got) / 1e-3  # all are linear
    gradients = 2 * (got - want) * step / 4

    def total(output):
        losses = prediction_loss(
            PATHS["linear"], prediction, loss, output, *map(jnp.asarray, (x0, x1, t[:, 0]))
        )
        return losses["mse"].sum(), losses

    (_, losses), gradient = jax.value_and_grad(total, has_aux=True)(jnp.asarray(output))
    np.testing.assert_allclose(losses["mse"], wants, rtol=1e-4)
    np.testing.assert_allclose(gradient, gradients, rtol=1e-4, atol=1e-5)
    assert ("cosine" in losses) == (loss == "velocity")
    if loss == "velocity":
        similarity = (got * (x1 - x0)).sum(1)
        similarity /= np.linalg.norm(got, axis=1) * np.linalg.norm(x1 - x0, axis=1)
        np.testing.assert_allclose(losses["cosine"], 1 - similarity, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS[1:])
@pytest.mark.parametrize("name", PATHS)
def test_velocity_weight_is_the_squared_error_of_the_velocity(name, prediction):
    path, t = PATHS[name], jnp.array([0.2, 0.5, 0.8])
    x0, x1, output = jax.random.normal(jax.random.key(0), (3, 3, 2, 4))
    x = path.interpolate(x0, x1, t)
    velocity = to_velocity(path, prediction, output, x, t)
    want = ((velocity - path.velocity(x0, x1, t)) ** 2).mean((1, 2))
    got = prediction_loss(path, prediction, "velocity", output, x0, x1, t)
    np.testing.assert_allclose(got["mse"], want, rtol=1e-4)


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
    for prediction in ("velocity", "data"):
        with pytest.raises(ValueError, match=rf"'likelihood' for the prediction '{prediction}'"):
            prediction_loss(path, prediction, "likelihood", x, x, x, t)
