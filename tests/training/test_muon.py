"""Muon: each matrix against a plain iteration in float64, all else against Adam."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from lightningdit_jax.assembly.registry import MODELS
from lightningdit_jax.parallel.collectives import collectives_of
from lightningdit_jax.parallel.hlo_text import Module
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.product_flops import matmul_flops
from lightningdit_jax.parallel.sharding import abstract_on_mesh
from lightningdit_jax.training import muon
from lightningdit_jax.training.job import abstract_job, fresh_state
from lightningdit_jax.training.newton_schulz import orthogonalization_flops, orthogonalize
from lightningdit_jax.training.optimizer import make_optimizer, on_mesh
from lightningdit_jax.training.state import create_state
from lightningdit_jax.tree_paths import named_leaves
from tests import tiny
from tests.training.test_newton_schulz import distance, iterated
from tests.training.test_optimizer import CONFIG

RATE, DECAY, MOMENTUM = 0.03, 0.1, 0.9
D, H, F, L = 16, 2, 24, 2
ROWS = ("muon", "muon_all")
SHAPES = {
    "blocks": {
        "attn": {
            "qkv": {"kernel": (L, D, 3, H, D // H), "bias": (L, 3, H, D // H)},
            "proj": {"kernel": (L, H, D // H, D), "bias": (L, D)},
        },
        "mlp": {
            "w12": {"kernel": (L, D, 2, F), "bias": (L, 2, F)},
            "w3": {"kernel": (L, F, D), "bias": (L, D)},
        },
        "adaLN_modulation": {"kernel": (L, D, 6, D), "bias": (L, 6, D)},
        "norm1": {"scale": (L, D)},
    },
    "y_embedder": {"embedding": (20, D)},
    "final_layer": {"linear": {"kernel": (D, 8), "bias": (8,)}},
    "pos_embed": (D, D),
}
IN_BLOCKS = {f"blocks/{name}/kernel" for name in ("attn/qkv", "attn/proj", "mlp/w12", "mlp/w3")}
WHOLE = IN_BLOCKS | {
    "blocks/adaLN_modulation/kernel",
    "y_embedder/embedding",
    "final_layer/linear/kernel",
    "pos_embed",
}
ON_MUON = {"muon": IN_BLOCKS, "muon_all": WHOLE}


def tree(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def optimizer(name, **changes):
    fixed = {"learning_rate": RATE, "weight_decay": DECAY, "momentum": MOMENTUM}
    return make_optimizer(dataclasses.replace(CONFIG, name=name, **fixed | changes), 8)


def by_hand(name, leaf, x):
    """[..., inputs, outputs] of each matrix that a row sees, written out, and its way back."""
    if leaf == "blocks/attn/qkv/kernel":
        if name == "muon":
            there = x.reshape(L, D, 3, D).transpose(0, 2, 1, 3)
            return there, lambda y: y.transpose(0, 2, 1, 3).reshape(x.shape)
        return x.reshape(L, D, 3 * D), lambda y: y.reshape(x.shape)
    if leaf == "blocks/attn/proj/kernel":
        return x.reshape(L, D, D), lambda y: y.reshape(x.shape)
    if leaf == "blocks/mlp/w12/kernel":
        if name == "muon":
            return x.transpose(0, 2, 1, 3), lambda y: y.transpose(0, 2, 1, 3)
        return x.reshape(L, D, 2 * F), lambda y: y.reshape(x.shape)
    if leaf == "blocks/adaLN_modulation/kernel":
        return x.reshape(L, D, 6 * D), lambda y: y.reshape(x.shape)
    if leaf in ("y_embedder/embedding", "pos_embed"):
        return x.T, lambda y: y.T
    return x, lambda y: y


def wanted(name, leaf, gradients, weights):
    """The update of a leaf at the last of some gradients."""
    momentum = np.zeros(weights.shape)
    for gradient in gradients:
        gradient = np.asarray(gradient, np.float64)
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
    ahead = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
    ahead = ahead.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
    matrices, back = by_hand(name, leaf, ahead)
    inputs, outputs = matrices.shape[-2:]
    flat = matrices.reshape(-1, inputs, outputs)
    turned = [iterated(x) if inputs <= outputs else iterated(x.T).T for x in flat]
    scale = 0.2 * math.sqrt(max(inputs, outputs))
    if name == "muon_all":
        scale *= math.sqrt(max(1, outputs / inputs))
    orthogonal = back(np.stack(turned).reshape(matrices.shape))
    return -RATE * (scale * orthogonal + DECAY * np.asarray(weights, np.float64))


@pytest.fixture
def exact(monkeypatch):
    """Products in float32, so that a wrong axis or factor is not within rounding."""
    exactly = functools.partial(orthogonalize, dtype=jnp.float32)
    monkeypatch.setattr(muon, "orthogonalize", exactly)


def two_steps(chosen):
    """Updates of the second of two steps, and the state."""
    weights = tree(100)

    @jax.jit
    def step(state, grads, number):
        return chosen.update(grads, state, weights, step=number)

    _, state = step(chosen.init(weights), tree(0), jnp.int32(0))
    return step(state, tree(1), jnp.int32(1))


@functools.cache
def by_muon():
    """The same in bfloat16."""
    return two_steps(optimizer("muon"))


@pytest.mark.parametrize("name", ROWS)
def test_updates_are_muon_s_of_each_matrix_and_adam_s_of_the_rest(name, exact):
    updates, state = two_steps(optimizer(name))
    gradients, weights = (tree(0), tree(1)), tree(100)
    adam = optax.adam(RATE, b1=CONFIG.beta1, b2=CONFIG.beta2, eps=CONFIG.eps)
    moments = adam.init(weights)
    for grads in gradients:
        by_adam, moments = jax.jit(adam.update)(grads, moments, weights)
    leaves = [dict(named_leaves(x)) for x in (updates, by_adam, weights, *gradients)]
    for leaf, update in leaves[0].items():
        _, adams, start, *grads = (x[leaf] for x in leaves)
        if leaf in ON_MUON[name]:
            np.testing.assert_allclose(
                update, wanted(name, leaf, grads, start), atol=1e-3 * RATE, err_msg=leaf
            )
        else:
            np.testing.assert_allclose(update, adams, rtol=1e-6, err_msg=leaf)
    momenta = [leaf for _, leaf in named_leaves(state.inner_states["matrices"])]
    sizes = [x.size for x in map(leaves[2].get, ON_MUON[name])]
    assert sum(leaf.size for leaf in momenta) == sum(sizes)


def test_in_bfloat16_directions_are_those_of_float64():
    updates, _ = by_muon()
    *gradients, weights = [dict(named_leaves(tree(i))) for i in (0, 1, 100)]
    for leaf, update in named_leaves(updates):
        if leaf in IN_BLOCKS:
            there = wanted("muon", leaf, [g[leaf] for g in gradients], weights[leaf])
            assert distance(update, there) < 0.05, leaf


def test_what_has_no_gradient_only_decays():
    """Zeros have no direction; so pos_embed, which is not trained."""
    weights = {"blocks": {}, "pos_embed": tree(100)["pos_embed"]}
    chosen, zeros = optimizer("muon_all"), jax.tree.map(jnp.zeros_like, weights)
    updates, _ = jax.jit(lambda state: chosen.update(zeros, state, weights, step=0))(
        chosen.init(weights)
    )
    np.testing.assert_allclose(
        updates["pos_embed"], -RATE * DECAY * weights["pos_embed"], rtol=1e-6
    )


def test_freezing_and_factors_go_by_name():
    plain, _ = by_muon()
    factors = {"freeze": ("blocks/attn/*",), "rate_factors": ("blocks/mlp/w3/*=2",)}
    changed, state = two_steps(optimizer("muon", **factors))
    wanted = {"blocks/attn/qkv/kernel": 0, "blocks/mlp/w3/kernel": 2, "blocks/mlp/w12/kernel": 1}
    plain, changed = dict(named_leaves(plain)), dict(named_leaves(changed))
    for name, factor in wanted.items():
        np.testing.assert_array_equal(changed[name], factor * plain[name])
    assert jax.tree.structure(state) == jax.tree.structure(optimizer("muon").init(tree(100)))


def test_on_a_mesh_it_is_that_of_one_device_and_gathers_no_stack(exact):
    """What is cut over "fsdp" goes and comes as it lies; the momentum lies as its weights."""
    chosen, weights, rules = optimizer("muon"), tree(100), MODELS["lightningdit"].rules
    mesh = make_mesh(fsdp=8, data=1)
    state = jax.eval_shape(lambda: create_state(weights, chosen, ema=False))
    abstract = abstract_on_mesh(state, mesh, rules)
    where = jax.tree.map(lambda leaf: leaf.sharding, (abstract.params, abstract.opt_state))
    there = on_mesh(chosen, abstract)

    def step(grads, opt_state, params):
        return there.update(grads, opt_state, params, step=jnp.int32(0))

    jitted = jax.jit(step, in_shardings=(where[0], where[1], where[0]), out_shardings=where)
    program = jitted.lower(weights, state.opt_state, weights).compile()
    grads, fresh, params = jax.device_put(
        (tree(0), chosen.init(weights), weights), (*where, where[0])
    )
    found, after = program(grads, fresh, params)
    alone, _ = jax.jit(lambda state: chosen.update(tree(0), state, weights, step=0))(
        chosen.init(weights)
    )
    # Sums in another order, through five steps.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3 * RATE), found, alone)
    kernels = dict(named_leaves(abstract.params))
    for name, leaf in named_leaves(after.inner_states["matrices"]):
        assert leaf.sharding == kernels[name.partition("trace/")[2]].sharding
    module = Module.parse(program.as_text())
    kinds = {
        seen.collective.kind
        for instructions in module.computations.values()
        for instruction in instructions
        for seen in collectives_of(module, instruction)
    }
    assert "all-to-all" in kinds and "all-gather" not in kinds


@pytest.mark.slow
def test_xl_s_program_has_the_products_that_are_counted_and_gathers_no_stack():
    """The published recipe's update, compiled and not run: it takes 36 s and no memory."""
    config = tiny.config("dit_xl_ig")
    mesh, rules = make_mesh(fsdp=8, data=1), MODELS["lightningdit"].rules
    job, chosen = abstract_job(config, mesh), make_optimizer(config.optimizer, 8)
    state = jax.eval_shape(lambda: fresh_state(job, config, chosen))
    abstract = abstract_on_mesh(state, mesh, rules)
    there, params = on_mesh(chosen, abstract), abstract.params
    where = jax.tree.map(lambda leaf: leaf.sharding, (params, abstract.opt_state))
    step = jax.jit(lambda *trees: there.update(*trees, step=jnp.int32(0)), out_shardings=where)
    text = step.lower(params, abstract.opt_state, params).compile().as_text()
    module = Module.parse(text)
    instructions = [i for inside in module.computations.values() for i in inside]
    products = sum(matmul_flops(module, i) for i in instructions if i.opcode == "dot")
    assert products == muon.update_flops("muon_all", params, 8)
    seen = [found.collective for i in instructions for found in collectives_of(module, i)]
    smallest_stack = 28 * 1152 * 1152 * 2
    assert all(c.whole_bytes < smallest_stack for c in seen if c.kind == "all-gather")
    assert any(c.kind == "all-to-all" for c in seen)


def test_a_tokenizer_has_no_such_matrices():
    weights = {"encoder": {"conv_in": {"kernel": jnp.ones((3, 3, 2, 4))}}}
    for name in ROWS:
        with pytest.raises(ValueError, match=rf"name is '{name}', which knows the matrices of a"):
            optimizer(name).init(weights)


PROJECTORS = {
    "mlp": {"fc1": {"kernel": (6, 4), "bias": (4,)}, "fc2": {"kernel": (4, 8), "bias": (8,)}},
    "conv": {"conv": {"kernel": (3, 3, 2, 5), "bias": (5,)}},
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("kind", PROJECTORS)
def test_a_projector_is_adams_or_in_the_recipe_of_all_has_its_kernels_turned(name, kind):
    """REPA's, beside a generator. A convolution's kernel is one matrix of all its inputs."""
    weights, gradient = (tree(seed, PROJECTORS[kind]) for seed in (0, 1))
    row = optimizer(name, weight_decay=0.0)
    updates, _ = row.update(gradient, row.init(weights), weights, step=0, network="repa_projector")
    adam = optax.adam(RATE, b1=CONFIG.beta1, b2=CONFIG.beta2, eps=CONFIG.eps)
    by_adam = dict(named_leaves(adam.update(gradient, adam.init(weights), weights)[0]))
    for leaf, update in named_leaves(updates):
        if name == "muon" or update.ndim == 1:
            np.testing.assert_allclose(update, by_adam[leaf], rtol=1e-5)
            continue
        inputs, outputs = math.prod(update.shape[:-1]), update.shape[-1]
        scale = 0.2 * math.sqrt(max(inputs, outputs)) * math.sqrt(max(1, outputs / inputs))
        turned = np.asarray(update).reshape(inputs, outputs) / (RATE * scale)
        values = np.linalg.svd(turned, compute_uv=False)
        assert values.min() > 0.6 and values.max() < 1.3  # as near to 1 as five steps come


def test_flops_of_a_device_are_those_of_its_rounds():
    """XL/1's 28 blocks on 16 devices: 4 x 28 square matrices are 7 rounds, 3 x 28 of the MLP 6."""
    shapes = {
        "attn": {"qkv": (28, 1152, 3, 16, 72), "proj": (28, 16, 72, 1152)},
        "mlp": {"w12": (28, 1152, 2, 3072), "w3": (28, 3072, 1152)},
    }
    arrays = jax.tree.map(
        lambda shape: {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)},
        {"blocks": shapes},
        is_leaf=lambda x: isinstance(x, tuple),
    )
    of = orthogonalization_flops
    assert muon.update_flops("muon", arrays, 16) == 7 * of(1152, 1152) + 6 * of(1152, 3072)
    assert muon.update_flops("adamw", arrays, 16) == 0
