"""Weights cast once are the weights cast at each use, bit for bit, and no others are cast."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.assembly.registry import MODELS, abstract_model
from lightningdit_jax.inference.sampling.options import Sampling
from lightningdit_jax.inference.sampling.sampler import Sampler, Structure
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.vae import VAVAE, VAVAEConfig
from lightningdit_jax.models.weight_types import as_used
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.sharding import abstract_on_mesh, tree_shardings
from lightningdit_jax.tree_paths import named_leaves
from tests import tiny
from tests.inference.tiny_generator import random_generator

VAE = VAVAEConfig(8, 3, 32, (1, 1), 1, (), (), 8, 8)
# LayerNorms with a scale, and the other MLP: what the published kind does not have.
OTHER = {"use_qknorm": True, "use_rmsnorm": False, "use_swiglu": False}


def generator(dtype, **changes):
    """Structure of a generator in a type, and random float32 weights."""
    architecture = tiny.dit_config(**changes)
    weights = nnx.to_pure_dict(nnx.state(random_generator(architecture), nnx.Param))
    return abstract_model("lightningdit", architecture, dtype)[0], weights


def tokenizer(dtype):
    graphdef, weights = nnx.split(VAVAE(VAE, dtype=dtype, rngs=nnx.Rngs(2)), nnx.Param)
    return graphdef, nnx.to_pure_dict(weights)


@pytest.mark.parametrize("changes", [{}, OTHER], ids=["published", "other"])
def test_norms_embeddings_and_positions_stay_float32(changes):
    graphdef, weights = generator(jnp.bfloat16, **changes)
    kept = {n for n, leaf in named_leaves(as_used(graphdef, weights)) if leaf.dtype == jnp.float32}
    assert kept == {
        name
        for name, _ in named_leaves(weights)
        if "norm" in name or name in ("pos_embed", "y_embedder/embedding")
    }


def test_float32_weights_of_a_float32_model_are_not_copied():
    graphdef, weights = generator(jnp.float32)
    pairs = zip(jax.tree.leaves(as_used(graphdef, weights)), jax.tree.leaves(weights), strict=True)
    assert all(used is given for used, given in pairs)


@pytest.mark.parametrize(
    "changes",
    [{}, pytest.param(OTHER, marks=pytest.mark.slow)],
    ids=["published", "other"],
)
def test_a_generator_says_the_same(changes):
    graphdef, weights = generator(jnp.bfloat16, **changes)
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((3, 4, 4, 8), np.float32), rng.random(3, np.float32)
    run = jax.jit(lambda weights: nnx.merge(graphdef, weights)(x, t, np.array([1, 10, 3])))
    np.testing.assert_array_equal(run(as_used(graphdef, weights)), run(weights))


def test_shardings_stay_abstract_ones_too():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    graphdef, weights = generator(jnp.bfloat16)
    rules = MODELS["lightningdit"].rules
    shardings = tree_shardings(weights, mesh, rules)
    used = as_used(graphdef, jax.device_put(weights, shardings))
    assert all(
        leaf.sharding.is_equivalent_to(wanted, leaf.ndim)
        for leaf, wanted in zip(jax.tree.leaves(used), jax.tree.leaves(shardings), strict=True)
    )
    abstract = as_used(graphdef, abstract_on_mesh(weights, mesh, rules))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), used
    )
    assert jax.tree.map(lambda leaf: leaf.sharding, abstract) == shardings


@pytest.mark.slow
def test_a_sampler_draws_the_same_images():
    (dit, dit_weights), (vae, vae_weights) = generator(jnp.bfloat16), tokenizer(jnp.bfloat16)
    structure = Structure(dit, vae, tiny.dit_config(), LatentScaling())
    networks = {"dit": dit_weights, "vae": vae_weights}
    cast = structure.weights(networks)
    assert cast["vae"]["decoder"]["conv_in"]["kernel"].dtype == jnp.bfloat16
    sampling = Sampling(num_steps=3, cfg_scale=2.0, cfg_channels=3)
    mesh, rows = make_mesh(devices=jax.devices()[:1]), np.arange(4)
    drawn = [
        next(Sampler(structure, weights, mesh, 4).batches(rows, rows, sampling, seed=0))[1]
        for weights in (networks, cast)
    ]
    assert np.ptp(drawn[0]) > 50
    np.testing.assert_array_equal(drawn[1], drawn[0])
