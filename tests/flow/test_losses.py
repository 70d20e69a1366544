import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightningdit_jax.flow.losses import flow_loss
from lightningdit_jax.flow.paths import LinearPath
from tests import golden

CASE = "transport_losses"


def golden_model(x_BHWC, t_B):
    """The closed-form network that the golden losses were made with."""
    t = t_B[:, None, None, None]
    rolled = jnp.roll(x_BHWC, 1, axis=-1)
    return 0.8 * jnp.sin(1.7 * x_BHWC + t) + 0.1 * x_BHWC - 0.3 * t * rolled


@pytest.fixture(scope="module")
def inputs():
    case = golden.load(CASE)
    t = jnp.asarray(case["in.t"])
    x0, x1 = (jnp.asarray(golden.to_nhwc(case[name])) for name in ("in.x0", "in.x1"))
    x_t = LinearPath().interpolate(x0, x1, t)
    return case, golden_model(x_t, t), LinearPath().velocity(x0, x1, t)


@pytest.mark.parametrize("cosine", [False, True])
def test_matches_the_release(inputs, cosine):
    case, prediction, target = inputs
    tolerance = golden.index()[CASE]["tolerance"]
    row = f"out.Linear.velocity.none.{'cos' if cosine else 'nocos'}"
    golden.assert_close(golden.to_nchw(prediction), case["out.Linear.pred"], tolerance)

    def total(prediction):
        losses = flow_loss(prediction, target)
        return losses["mse"].mean() + cosine * losses["cosine"].mean()

    losses = flow_loss(prediction, target)
    golden.assert_close(losses["mse"], case[f"{row}.loss"], tolerance)
    if cosine:
        golden.assert_close(losses["cosine"], case[f"{row}.cos_loss"], tolerance)
    value, gradient = jax.value_and_grad(total)(prediction)
    golden.assert_close(value, case[f"{row}.total"], tolerance)
    golden.assert_close(golden.to_nchw(gradient), case[f"{row}.grad"], tolerance)


def test_gradient_matches_finite_differences():
    target = np.random.default_rng(0).normal(size=(1, 2, 2, 3))
    prediction = np.random.default_rng(1).normal(size=(1, 2, 2, 3))

    def reference(prediction):
        dot = (prediction * target).sum(-1)
        norms = np.linalg.norm(prediction, axis=-1) * np.linalg.norm(target, axis=-1)
        return ((prediction - target) ** 2).mean() + (1 - dot / norms).mean()

    difference = np.empty_like(prediction)
    for i in np.ndindex(prediction.shape):
        step = np.zeros_like(prediction)
        step[i] = 1e-6
        difference[i] = (reference(prediction + step) - reference(prediction - step)) / 2e-6
    gradient = jax.grad(lambda x: sum(loss.sum() for loss in flow_loss(x, target).values()))
    np.testing.assert_allclose(gradient(jnp.asarray(prediction)), difference, atol=2e-6)


def test_zero_prediction_has_the_gradient_of_torch():
    """At 0 the norm is the constant 1e-8, so d(1 - cos) = -target / |target| / 1e-8."""
    target = np.random.default_rng(0).normal(size=(1, 1, 4, 3)).astype(np.float32)
    zero = jnp.zeros_like(target)
    gradient = jax.grad(lambda x: flow_loss(x, target)["cosine"].sum())(zero)
    direction = target / np.linalg.norm(target, axis=-1, keepdims=True)
    np.testing.assert_allclose(gradient, -direction * 1e8 / 4, rtol=1e-5)
    np.testing.assert_array_equal(flow_loss(zero, target)["cosine"], [1.0])


def test_zero_target_is_finite():
    prediction = jnp.ones((1, 1, 1, 3))
    value, gradient = jax.value_and_grad(lambda x: flow_loss(x, jnp.zeros_like(x))["cosine"].sum())(
        prediction
    )
    assert value == 1 and (gradient == 0).all()


def test_cosine_of_known_angles():
    target = np.float32([[3.0, 0.0]] * 4)[:, None]
    prediction = np.float32([[5.0, 0.0], [-5.0, 0.0], [0.0, 1.0], [1.0, 1.0]])[:, None]
    cosine = flow_loss(prediction, target)["cosine"]
    np.testing.assert_allclose(cosine, [0, 2, 1, 1 - 0.5**0.5], atol=1e-6)


def test_low_precision_is_computed_in_float32():
    prediction, target = np.random.default_rng(0).normal(size=(2, 2, 4, 4, 3)).astype(np.float32)
    prediction = jnp.asarray(prediction, jnp.bfloat16)
    losses = flow_loss(prediction, target)
    want = flow_loss(prediction.astype(jnp.float32), target)
    for name in ("mse", "cosine"):
        assert losses[name].dtype == jnp.float32 and losses[name].shape == (2,)
        np.testing.assert_array_equal(losses[name], want[name])


def test_differing_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 4\).*\(1, 4\)"):
        flow_loss(jnp.zeros((2, 4)), jnp.zeros((1, 4)))
