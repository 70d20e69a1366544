"""Paths and predictions of the generator's step, on a model of one weight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lightningdit_jax.flow.paths import PATHS
from lightningdit_jax.flow.predictions import PREDICTIONS
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.lightningdit import LightningDiT
from lightningdit_jax.training import dit_step
from lightningdit_jax.training.state import create_state
from lightningdit_jax.tree_paths import named_leaves
from tests import tiny


class Scale(nnx.Module):
    """x times one weight."""

    def __init__(self):
        self.weight = nnx.Param(jnp.float32(0.3))

    def __call__(self, x, t, y):
        return self.weight * x


GRAPHDEF, _STATE = nnx.split(Scale(), nnx.Param)
PARAMS = nnx.to_pure_dict(_STATE)


def latents(batch=8):
    return jax.random.normal(jax.random.key(0), (batch, 2, 2, 8))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_loss_is_finite_at_both_ends_of_time(monkeypatch, path, prediction):
    """Where the path is infinite, the ends are left out; else they are noise and data exactly."""
    ends = jnp.array([0.0, 1.0] * 4)
    monkeypatch.setattr(dit_step, "sample_timesteps", lambda *args: ends)
    config = tiny.config(
        "digits_dit", flow__path=path, flow__prediction=prediction, flow__loss_weight="velocity"
    )
    optimizer = optax.sgd(1e-3)
    step = jax.jit(dit_step.make_dit_step(GRAPHDEF, config, optimizer, scaling=LatentScaling()))
    state = create_state(PARAMS, optimizer, ema=False)
    batch = {"latents": latents().transpose(0, 3, 1, 2), "labels": jnp.zeros(8, jnp.int32)}
    _, metrics = step(state, batch)
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    assert "cosine" in metrics


def test_times_are_shifted_by_the_numbers_of_a_latent(monkeypatch):
    """Uniform ones too. 8 x 8 x 16 numbers are a quarter of 4096: t -> 2 t / (1 + t)."""
    seen = []

    def no_loss(*args, **flow):
        def loss(params, x1, x0, t, y):
            jax.debug.callback(seen.append, t)
            return 0.0 * params["weight"], {}

        return loss

    monkeypatch.setattr(dit_step, "make_dit_loss", no_loss)
    batch = {"latents": latents().transpose(0, 3, 1, 2), "labels": jnp.zeros(8, jnp.int32)}
    for shift in (0.0, "dimension"):
        config = tiny.config(
            "digits_dit",
            flow__timestep_shift=shift,
            flow__uniform_from_step=0,
            model__input_size=8,
            model__in_channels=16,
        )
        optimizer = optax.sgd(1e-3)
        step = dit_step.make_dit_step(GRAPHDEF, config, optimizer, scaling=LatentScaling())
        step(create_state(PARAMS, optimizer, ema=False), batch)
        jax.effects_barrier()
    plain, shifted = map(np.asarray, seen)
    np.testing.assert_allclose(shifted, 2 * plain / (1 + plain), rtol=1e-6)


def test_stored_latents_are_normalized_in_the_step():
    mean, std = np.linspace(-1, 1, 8, dtype=np.float32), np.linspace(1, 2, 8, dtype=np.float32)
    stored = latents()
    config, optimizer = tiny.config("digits_dit"), optax.sgd(1e-3)
    losses = []
    for scaling, x in (
        (LatentScaling(mean, std, 0.5), stored),
        (LatentScaling(), (stored - mean) / std * 0.5),
    ):
        step = jax.jit(dit_step.make_dit_step(GRAPHDEF, config, optimizer, scaling=scaling))
        batch = {"latents": x.transpose(0, 3, 1, 2), "labels": jnp.zeros(8, jnp.int32)}
        losses.append(step(create_state(PARAMS, optimizer, ema=False), batch)[1]["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_loss_of_a_path_and_a_prediction():
    """GVP and noise: the model sees the point on the circle, and its output is held to x0."""
    loss_fn = dit_step.make_dit_loss(GRAPHDEF, 0.0, path="gvp", prediction="noise")
    x1, x0 = latents(), latents()[::-1]
    t = jnp.linspace(0, 1, 8)
    loss, metrics = loss_fn(PARAMS, x1, x0, t, jnp.zeros(8, jnp.int32))
    angle = np.asarray(t)[:, None, None, None] * np.pi / 2
    want = np.mean((0.3 * (np.sin(angle) * x1 + np.cos(angle) * x0) - x0) ** 2)
    np.testing.assert_allclose([loss, metrics["mse"]], want, rtol=1e-5)


def test_losses_that_do_not_fit_the_prediction_are_refused():
    for prediction in ("velocity", "data"):
        with pytest.raises(ValueError, match=r"flow\.loss_weight is 'likelihood'"):
            tiny.config("digits_dit", flow__prediction=prediction, flow__loss_weight="likelihood")
    for flow in ({"flow__prediction": "data"}, {"flow__loss_weight": "noise"}):
        with pytest.raises(ValueError, match=r"flow\.cosine_weight is 1\.0.*set it to 0"):
            tiny.config("digits_dit", **flow)
    with pytest.raises(ValueError, match=r"flow\.path.*linaer.*linear"):
        tiny.config("digits_dit", flow__path="linaer")


def test_the_second_head_teaches_its_own_blocks_alone():
    """Its weighted loss is added; of it later blocks and the last layer have no gradient."""
    config = tiny.dit_config(depth=3, aux_head_depth=2)
    graphdef, state = nnx.split(LightningDiT(config, rngs=nnx.Rngs(0)), nnx.Param)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), nnx.to_pure_dict(state)
    )
    x1, x0 = rng.normal(size=(2, 4, 4, 4, 8)).astype(np.float32)
    batch = x1, x0, jnp.linspace(0.1, 0.9, 4), jnp.arange(4)

    def loss_fn(params, aux_weight):
        return dit_step.make_dit_loss(graphdef, 1.0, aux_weight, aux_head=True)(params, *batch)

    run = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (loss, terms), grads = run(params, 0.5)
    (_, same), plain = run(params, 0.0)
    t = np.asarray(batch[2])[:, None, None, None]
    second = jax.jit(lambda p, *x: nnx.merge(graphdef, p).with_aux_head(*x)[1])
    weak = second(params, t * x1 + (1 - t) * x0, *batch[2:])
    want = np.mean((np.asarray(weak) - (x1 - x0)) ** 2)
    np.testing.assert_allclose(terms["aux_mse"], want, rtol=1e-5)
    want = terms["mse"] + terms["cosine"] + 0.5 * terms["aux_mse"]
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    assert same["mse"] == terms["mse"] and same["aux_mse"] == terms["aux_mse"]
    of_head = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), grads, plain)
    for name, grad in named_leaves(of_head):
        if name.startswith("blocks/"):
            assert not grad[2:].any(), name
            assert all(np.abs(block).max() > 1e-6 for block in grad[:2]), name
        else:
            reached = not name.startswith("final_layer") and name != "pos_embed"
            assert (np.abs(grad).max() > 1e-6) == reached, name
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(plain["aux_head"]))
