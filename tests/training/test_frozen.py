"""Parameters that stay as they are or move at a rate of their own, by patterns of their names."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.update import update_at
from lightningdit_jax.tree_paths import named_leaves
from tests.training.test_optimizer import CONFIG, RATE, STEPS

BETAS = {"b1": CONFIG.beta1, "b2": CONFIG.beta2}


def optimizer(**changes):
    return make_optimizer(dataclasses.replace(CONFIG, **changes), STEPS)


def tree(seed):
    """Arrays of a generator's names, blocks stacked along a leading axis."""
    rng = np.random.default_rng(seed)
    blocks, embedder = rng.normal(size=(2, 4, 4)), rng.normal(size=(3, 4))
    arrays = {"blocks": {"mlp": {"kernel": blocks}}, "x_embedder": {"kernel": embedder}}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), arrays)


def params():
    return tree(100)


def walk(optimizer, number=4, network=""):
    """(weights, state) after some steps, with tree(step) for gradients."""
    weights = params()
    state = optimizer.init(weights)
    for step in range(number):
        updates, state = update_at(jnp.int32(step), optimizer, tree(step), state, weights, network)
        weights = optax.apply_updates(weights, updates)
    return weights, state


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_what_is_frozen_keeps_its_bits_and_the_rest_moves_as_if_alone(name):
    """Weight decay is on; of the clipped norm only what moves counts."""
    start, changes = params(), {"name": name, "max_grad_norm": 0.5}
    frozen, state = walk(optimizer(freeze=("blocks/*",), **changes))
    np.testing.assert_array_equal(
        frozen["blocks"]["mlp"]["kernel"], start["blocks"]["mlp"]["kernel"]
    )
    moments = [x for n, x in named_leaves(state) if "blocks" in n]
    assert moments and not any(np.any(x) for x in moments)

    rule = {
        "adamw": optax.adamw(RATE, **BETAS, eps=1e-8, weight_decay=0.1),
        "lion": optax.lion(RATE, **BETAS, weight_decay=0.1),
    }[name]
    alone = optax.chain(optax.clip_by_global_norm(0.5), rule)
    weights = {"x": start["x_embedder"]["kernel"]}
    alone_state = alone.init(weights)
    for step in range(4):
        grads = {"x": tree(step)["x_embedder"]["kernel"]}
        updates, alone_state = alone.update(grads, alone_state, weights)
        weights = optax.apply_updates(weights, updates)
    np.testing.assert_allclose(frozen["x_embedder"]["kernel"], weights["x"], rtol=1e-6)


def test_a_factor_of_a_half_halves_adams_update():
    """Its first update is the rate, by the sign of the gradient."""
    start, changes = params(), {"weight_decay": 0.0}
    factors = ("blocks/*=0.5", "*kernel=2")  # the first that matches
    weights, _ = walk(optimizer(rate_factors=factors, **changes), 1)
    moved, signs = optax.tree.sub(weights, start), jax.tree.map(jnp.sign, tree(0))
    for part, factor in (("blocks", 0.5), ("x_embedder", 2.0)):
        jax.tree.map(
            lambda a, b, factor=factor: np.testing.assert_allclose(
                a, -RATE * factor * b, rtol=1e-4
            ),
            moved[part],
            signs[part],
        )


def test_factors_scale_what_the_rate_scales():
    """Decay too: all of it at a factor of 2 is a run at twice the rate."""
    found, state = walk(optimizer(rate_factors=("*=2",)))
    wanted, _ = walk(optimizer(learning_rate=2 * RATE))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, wanted)
    plain = optimizer()
    assert jax.tree.structure(state) == jax.tree.structure(plain.init(params()))


def test_frozen_parameters_join_within_a_run():
    """The state is the same, so a run goes on; they start from moments of zero."""
    frozen, plain = optimizer(freeze=("x_embedder/kernel",)), optimizer(weight_decay=0.0)
    weights, state = walk(frozen, 2)
    updates, _ = plain.update(tree(2), state, weights, step=jnp.int32(2))
    b1, b2 = (1 - beta for beta in BETAS.values())
    size = b1 / (1 - (1 - b1) ** 3) / np.sqrt(b2 / (1 - (1 - b2) ** 3))  # Adam's third step
    wanted = -RATE * size * np.sign(tree(2)["x_embedder"]["kernel"])
    np.testing.assert_allclose(updates["x_embedder"]["kernel"], wanted, rtol=1e-4)


def test_a_companion_is_named_in_front():
    """So a pattern of the model's is not one of the discriminator's by chance."""
    start = params()
    weights, _ = walk(optimizer(freeze=("x_embedder/*",)), 1, "discriminator")
    assert np.any(weights["x_embedder"]["kernel"] != start["x_embedder"]["kernel"])
    weights, _ = walk(optimizer(freeze=("discriminator/*",)), 1, "discriminator")
    jax.tree.map(np.testing.assert_array_equal, weights, start)
