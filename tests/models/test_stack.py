"""Stacks of blocks against a loop over single ones, with and without their activations."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from lightningdit_jax.models.layers import SwiGLU
from lightningdit_jax.models.lightningdit import REMAT_POLICIES, LightningDiT
from lightningdit_jax.models.stack import make_stack, run_stack
from lightningdit_jax.models.vit import ViT
from lightningdit_jax.parallel.mesh import batch_sharding, make_mesh
from lightningdit_jax.parallel.sharding import constrain_tokens
from tests import tiny

DEPTH, ASKED = 4, (1, 3)
POLICIES = {"none": None, **REMAT_POLICIES}


def make_block(rngs):
    """Its kernel w12 is one of those that are arranged anew."""
    return SwiGLU(6, 8, dtype=jnp.float32, rngs=rngs)


def run_block(block, x):
    return x + block(x)


@functools.cache
def stack():
    """The stack in functional form, and its tokens [B, N, D]."""
    split = nnx.split(make_stack(make_block, DEPTH, nnx.Rngs(0)))
    return *split, jax.random.normal(jax.random.key(1), (2, 5, 6))


def single(blocks, number):
    """A block by its number, counted from 1, taken out of a stack."""
    graphdef, stacked = nnx.split(blocks)
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[number - 1], stacked))


def by_hand(blocks, x):
    outputs = {0: x}
    for number in range(1, DEPTH + 1):
        outputs[number] = run_block(single(blocks, number), outputs[number - 1])
    return outputs


def test_each_block_is_made_as_it_would_be_alone():
    rngs = nnx.Rngs(3)
    blocks = make_stack(make_block, DEPTH, rngs)
    keys = jax.random.split(nnx.Rngs(3).params(), DEPTH)
    for number, key in enumerate(keys, 1):
        alone = make_block(nnx.Rngs(key))
        chex.assert_trees_all_equal(nnx.state(single(blocks, number)), nnx.state(alone))


@pytest.mark.parametrize(
    ("policy", "unroll", "fused_parts_first"),
    [(name, unroll, True) for name in POLICIES for unroll in (1, DEPTH)] + [("none", 2, False)],
)
def test_outputs_activations_and_gradients_are_those_of_a_loop(policy, unroll, fused_parts_first):
    graphdef, state, x = stack()
    options = {"unroll": unroll, "fused_parts_first": fused_parts_first}

    def loss(out, kept):
        """Of all that is given back, each in another way."""
        return jnp.sin(out).sum() + sum(k * jnp.square(a).sum() for k, a in kept.items())

    def stacked(state, x):
        blocks = nnx.merge(graphdef, state)
        out, kept = run_stack(
            blocks, run_block, x, policy=POLICIES[policy], activations=ASKED, **options
        )
        return loss(out, kept), (out, kept)

    def looped(state, x):
        outputs = by_hand(nnx.merge(graphdef, state), x)
        out, kept = outputs[DEPTH], {k: outputs[k] for k in ASKED}
        return loss(out, kept), (out, kept)

    got, want = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(state, x)
        for f in (stacked, looped)
    )
    assert set(got[0][1][1]) == set(ASKED)
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-5)


def test_without_activations_the_program_is_that_of_a_plain_scan():
    graphdef, state, x = stack()

    def plain(state, x):
        def step(x, state):
            return run_block(nnx.merge(graphdef, state), x), None

        return jax.lax.scan(step, x, state)[0]

    def ours(state, x):
        return run_stack(nnx.merge(graphdef, state), run_block, x)[0]

    assert str(jax.make_jaxpr(ours)(state, x)) == str(jax.make_jaxpr(plain)(state, x))


@pytest.mark.parametrize("policy", POLICIES)
def test_activations_keep_nothing_of_other_blocks(policy):
    """What the loop hands to the backward pass, one of each block, is the same with them."""
    graphdef, state, x = stack()

    def kept(activations):
        options = {"policy": POLICIES[policy], "activations": activations}

        def run(state, x):
            return run_stack(nnx.merge(graphdef, state), run_block, x, **options)

        def pullback(state, x):
            return jax.vjp(run, state, x)[1]

        leaves = jax.tree.leaves(jax.eval_shape(pullback, state, x))
        return sorted(leaf.shape for leaf in leaves if leaf.shape[:2] == (DEPTH, len(x)))

    assert kept(ASKED) == kept(()) != []


def test_activations_lie_on_the_mesh_as_tokens_do():
    """And cost a device its rows of each, neither a copy of all rows nor one of all blocks."""
    graphdef, state, _ = stack()
    mesh = make_mesh(2, 4, 1)
    constrain = constrain_tokens(mesh)
    x = jax.ShapeDtypeStruct((16, 5, 6), jnp.float32, sharding=batch_sharding(mesh))

    def compiled(activations):
        def run(state, x):
            blocks = nnx.merge(graphdef, state)
            return run_stack(
                blocks, lambda *both: constrain(run_block(*both)), x, activations=activations
            )[1]

        return jax.jit(run).lower(state, x).compile()

    asked = compiled(ASKED)
    assert {k: s.spec for k, s in asked.output_shardings.items()} == {
        k: batch_sharding(mesh).spec for k in ASKED
    }
    assert asked.memory_analysis().output_size_in_bytes < len(ASKED) * (2 + 1) * 5 * 6 * 4
    assert "all-gather" not in asked.as_text()


@pytest.mark.slow
def test_generators_and_vision_transformers_give_theirs():
    dit = LightningDiT(tiny.dit_config(depth=3), rngs=nnx.Rngs(0))
    # adaLN's zeros would make every block the identity.
    kernel = dit.blocks.adaLN_modulation.kernel
    kernel[...] = 3.0 * jax.random.normal(jax.random.key(2), kernel.shape)
    x, t, y = jnp.ones((2, 4, 4, 8)), jnp.array([0.2, 0.9]), jnp.array([1, 10])
    velocity, kept = dit.with_activations(x, t, y, (2, 3))
    tokens, c = dit.embed_latents(x), dit.embed_condition(t, y)
    for number in (1, 2, 3):
        tokens = single(dit.blocks, number)(tokens, c)
        if number in kept:
            chex.assert_trees_all_close(kept[number], tokens, rtol=1e-4, atol=1e-5)
    assert set(kept) == {2, 3} and float(abs(kept[2] - kept[3]).max()) > 0.1
    chex.assert_trees_all_close(velocity, dit(x, t, y))

    vit = ViT(tiny.VIT, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    features, kept = vit.with_activations(images, (2,))
    chex.assert_shape(kept[2], (2, 1 + 4 * 4, 32))  # the class token in front
    chex.assert_trees_all_close(vit.norm(kept[2])[:, 1:].reshape(2, 4, 4, 32), features)
    chex.assert_trees_all_close(features, vit(images))


@pytest.mark.parametrize("number", [0, DEPTH + 1])
def test_blocks_that_are_not_there_are_refused(number):
    graphdef, state, x = stack()
    with pytest.raises(ValueError, match=rf"block {number} are asked for; expected .* 1 to 4"):
        run_stack(nnx.merge(graphdef, state), run_block, x, activations=(2, number))
