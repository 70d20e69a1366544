"""AdamW with clipping and warm-up: numbers as optax's chain, one state for all of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lightningdit_jax.config import OptimizerConfig
from lightningdit_jax.training.optimizer import make_optimizer

ADAM = {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
SETTINGS = list(itertools.product((0.0, 0.5), (0, 5)))


def optimizer(max_grad_norm, warmup_steps):
    return make_optimizer(
        OptimizerConfig(
            learning_rate=0.03,
            warmup_steps=warmup_steps,
            beta1=ADAM["b1"],
            beta2=ADAM["b2"],
            eps=ADAM["eps"],
            weight_decay=ADAM["weight_decay"],
            max_grad_norm=max_grad_norm,
        )
    )


def chain(max_grad_norm, warmup_steps):
    """The same of optax's own parts."""
    rate = 0.03
    if warmup_steps:
        rate = optax.linear_schedule(rate / warmup_steps, rate, warmup_steps - 1)
    parts = [optax.clip_by_global_norm(max_grad_norm)] if max_grad_norm else []
    return optax.chain(*parts, optax.adamw(rate, **ADAM))


def gradients():
    """Eight gradients, of norms on both sides of the clipping."""
    rng = np.random.default_rng(0)
    sizes = np.linspace(0.05, 0.6, 8)
    return [
        {
            "w": jnp.asarray(rng.normal(0, size, (3, 2)), jnp.float32),
            "b": jnp.asarray(rng.normal(0, size, 2), jnp.float32),
        }
        for size in sizes
    ]


def trajectory(optimizer):
    """Weights after each gradient."""
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    seen = []
    for grads in gradients():
        params, state = step(params, state, grads)
        seen.append(params)
    return seen


@pytest.mark.parametrize("setting", SETTINGS)
def test_updates_equal_those_of_optax_to_the_bit(setting):
    norms = [float(optax.tree.norm(g)) for g in gradients()]
    assert min(norms) < 0.5 < max(norms)
    jax.tree.map(
        np.testing.assert_array_equal, trajectory(optimizer(*setting)), trajectory(chain(*setting))
    )


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_state_is_that_of_adamw_whatever_is_set(setting):
    params = {"w": jnp.ones(2)}
    state = optimizer(*setting).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(optax.adamw(0.03).init(params))
    _, after = optimizer(*setting).update({"w": jnp.ones(2)}, state, params)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_warmup_that_is_switched_on_counts_from_the_beginning_of_the_run():
    params = {"w": jnp.ones(2)}
    plain, warm = optimizer(0.0, 0), optimizer(0.0, 5)
    state = plain.init(params)
    for grads in ({"w": jnp.ones(2)}, {"w": -jnp.ones(2)}):
        _, state = plain.update(grads, state, params)
    grads = {"w": jnp.full(2, 0.5)}
    full, _ = plain.update(grads, state, params)
    part, _ = warm.update(grads, state, params)
    np.testing.assert_allclose(part["w"], full["w"] * 3 / 5, rtol=1e-6)  # the third of five
