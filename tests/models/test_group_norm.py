"""Group normalization by sums per channel against Flax's over groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend import core

from lightningdit_jax.models.group_norm import GroupNorm, group_norm
from lightningdit_jax.models.vae import REMAT, ResnetBlock

CHANNELS, GROUPS = 12, 3
RNG = np.random.default_rng(0)


def layers(dtype):
    """Ours and Flax's, of the same random scale and bias."""
    options = {"epsilon": 1e-6, "dtype": dtype, "rngs": nnx.Rngs(0)}
    ours = GroupNorm(CHANNELS, GROUPS, **options)
    theirs = nnx.GroupNorm(CHANNELS, GROUPS, use_fast_variance=False, **options)
    for name in ("scale", "bias"):
        values = jnp.asarray(RNG.normal(size=CHANNELS), jnp.float32)
        getattr(ours, name)[...] = getattr(theirs, name)[...] = values
    return ours, theirs


def run(layer, x, weight):
    """Output, and the gradient of its weighted sum by parameters and input."""
    graphdef, params = nnx.split(layer, nnx.Param)

    def loss(params, x):
        out = nnx.merge(graphdef, params)(x)
        return (out * weight).sum(), out

    gradients, out = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
    return out, nnx.to_pure_dict(gradients[0]), gradients[1]


@pytest.mark.parametrize("shape", [(2, 5, 4, CHANNELS), (3, 7, CHANNELS)])
def test_values_and_gradients_are_those_of_flax(shape):
    x = jnp.asarray(1.5 + RNG.normal(size=shape), jnp.float32)
    weight = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    ours, theirs = (run(layer, x, weight) for layer in layers(jnp.float32))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), ours, theirs)


def test_a_large_mean_leaves_the_variance_alone():
    """E[x^2] - E[x]^2 would lose it: near 1e8 float32 goes in steps of 8."""
    noise = RNG.integers(-4, 5, size=(2, 8, 8, CHANNELS)).astype(np.float32)
    out = group_norm(jnp.asarray(1e4 + noise), jnp.ones(CHANNELS), jnp.zeros(CHANNELS), GROUPS, 0.0)
    groups = np.asarray(out).reshape(2, 64, GROUPS, -1)
    np.testing.assert_allclose(groups.std(axis=(1, 3)), 1.0, rtol=1e-5)


def test_bfloat16_is_the_float32_result_rounded_once():
    x = jnp.asarray(RNG.normal(size=(2, 4, 4, CHANNELS)), jnp.bfloat16)
    ours, _ = layers(jnp.bfloat16)
    exact = group_norm(x.astype(jnp.float32), ours.scale[...], ours.bias[...], GROUPS, 1e-6)
    out = ours(x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, exact.astype(jnp.bfloat16))


def test_no_remat_sums_the_statistics_again():
    def sums_over_pixels(remat):
        block = ResnetBlock(32, 32, dtype=jnp.float32, remat=remat, rngs=nnx.Rngs(0))
        graphdef, params = nnx.split(block, nnx.Param)
        x = jnp.zeros((2, 8, 8, 32))
        gradient = jax.grad(lambda p, x: nnx.merge(graphdef, p)(x).sum(), argnums=(0, 1))
        return count(jax.make_jaxpr(gradient)(params, x).jaxpr)

    def count(jaxpr):  # what is printed has a program that is called twice once
        of_callees = (
            count(inner) for eqn in jaxpr.eqns for inner in core.jaxprs_in_params(eqn.params)
        )
        sums = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "reduce_sum"]
        return sum(eqn.params["axes"] == (1, 2) for eqn in sums) + sum(of_callees)

    # Two of each norm forwards, two backwards.
    assert {remat: sums_over_pixels(remat) for remat in REMAT} == dict.fromkeys(REMAT, 8)
