"""Gradient accumulation: the loss and gradients of the whole batch, with the memory of a part."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.assembly.registry import abstract_model
from lightningdit_jax.models.weight_types import as_used
from lightningdit_jax.parallel.mesh import batch_sharding, make_mesh
from lightningdit_jax.training.dit_step import make_dit_loss
from lightningdit_jax.training.job import abstract_generator_job
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.plan import training_hardware, training_plans
from lightningdit_jax.training.run import compile_ready, train
from lightningdit_jax.training.update import accumulate_gradients
from tests import tiny
from tests.inference.tiny_generator import random_generator

BATCH = 64


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_equals_the_whole_batch(steps):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)}
    x, y = jnp.asarray(rng.normal(size=(16, 3))), jnp.asarray(rng.normal(size=(16, 2)))

    def loss_fn(params, x, y):
        loss = jnp.mean((jnp.tanh(x @ params["w"]) - y) ** 2)
        return loss, {"twice": 2 * loss}

    (loss, metrics), grads = accumulate_gradients(loss_fn, params, (x, y), steps)
    residual = np.tanh(x @ params["w"]) - y
    want = np.asarray(x).T @ (2 * residual * (1 - np.tanh(x @ params["w"]) ** 2)) / residual.size
    np.testing.assert_allclose(loss, np.mean(residual**2), rtol=1e-6)
    np.testing.assert_allclose(metrics["twice"], 2 * loss, rtol=1e-6)
    np.testing.assert_allclose(grads["w"], want, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_weights_cast_once_for_all_parts_are_those_cast_in_each():
    """Bit for bit; sums of the gradients stay float32."""
    dit = random_generator(tiny.dit_config(depth=1))
    weights = nnx.to_pure_dict(nnx.state(dit, nnx.Param))
    graphdef, _ = abstract_model("lightningdit", dit.config, jnp.bfloat16)
    loss_fn = make_dit_loss(graphdef, 1.0)
    rng = np.random.default_rng(0)
    x1, x0 = (jnp.asarray(rng.normal(size=(4, 4, 4, 8)), jnp.float32) for _ in range(2))
    batch = (x1, x0, jnp.asarray(rng.random(4), jnp.float32), jnp.arange(4))
    once = functools.partial(as_used, graphdef)
    assert any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(once(weights)))
    found = [
        jax.jit(functools.partial(accumulate_gradients, loss_fn, steps=2, **options))(
            weights, batch=batch
        )
        for options in ({}, {"as_used": once})
    ]
    chex.assert_trees_all_equal_shapes_and_dtypes(found[1][1], weights)
    chex.assert_trees_all_equal(*found)


def one_step(accumulate_steps, mesh):
    """(compiled step, state and metrics after it) of a tiny generator."""
    config = tiny.config(
        "digits_dit", train__accumulate_steps=accumulate_steps, train__batch_size=BATCH
    )
    job = abstract_generator_job(config, mesh)
    init, step_fn, abstract = compile_ready(
        job, config, mesh, make_optimizer(config.optimizer, config.train.num_steps)
    )
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(BATCH, 8, 4, 4)).astype(np.float32)
    batch = {"latents": latents, "labels": np.arange(BATCH, dtype=np.int32) % 10}
    batch = jax.device_put(batch, batch_sharding(mesh))
    compiled = step_fn.lower(abstract, batch).compile()
    state, metrics = compiled(init(), batch)
    return compiled, jax.device_get(state), jax.device_get(metrics)


@pytest.mark.slow
def test_a_step_in_parts_equals_the_step_in_less_memory():
    mesh = make_mesh(2, devices=jax.devices()[:2])
    whole, state, metrics = one_step(1, mesh)
    parts, other_state, other_metrics = one_step(4, mesh)
    for name in ("loss", "mse", "cosine", "grad_norm"):
        np.testing.assert_allclose(other_metrics[name], metrics[name], rtol=2e-6, err_msg=name)
    # Adam's first moment is a tenth of the gradient.
    moments = [jax.tree.leaves(s.opt_state)[1:] for s in (state, other_state)]
    scale = max(np.abs(x).max() for x in moments[0])
    for got, want in zip(*moments, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6 * scale)
    temporary = [c.memory_analysis().temp_size_in_bytes for c in (whole, parts)]
    assert temporary[1] < temporary[0] / 2, temporary
    # Every device computes on the rows it has.
    for program in (whole, parts):
        found = re.findall(r" (all-\w+|reduce-scatter|collective-permute)\(", program.as_text())
        assert set(found) == {"all-reduce"}


def test_refusals(tmp_path):
    config = tiny.config("digits_vavae", train__accumulate_steps=2, vae_loss__perceptual_weight=0.0)
    with pytest.raises(ValueError, match=r"accumulate_steps is 2, but a tokenizer's loss is of"):
        training_plans(config, training_hardware())
    generator = tiny.config("digits_dit", train__accumulate_steps=3, train__batch_size=32)
    with pytest.raises(ValueError, match=r"32 cannot .* 8 batch shards of 3 .* sizes: 24 and 48"):
        train(generator, str(tmp_path))
