"""Attention and its own backward pass against JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightningdit_jax.models.attention import attention


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    q, k, v, weight = rng.normal(size=(4, 2, 6, 3, 8)).astype(np.float32)
    return (3 * q, k, v), weight


def value_and_gradients(function, arrays, weight):
    out, pull_back = jax.vjp(function, *arrays)
    return [out, *pull_back(jnp.asarray(weight, out.dtype))]


def test_values_and_gradients(inputs):
    got = value_and_gradients(attention, *inputs)
    want = value_and_gradients(jax.nn.dot_product_attention, *inputs)
    for ours, theirs in zip(got, want):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_bfloat16_loses_no_more_than_jax(inputs):
    arrays, weight = inputs
    exact = value_and_gradients(jax.nn.dot_product_attention, arrays, weight)
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
    ours = value_and_gradients(attention, rounded, weight)
    theirs = value_and_gradients(jax.nn.dot_product_attention, rounded, weight)
    for our, their, want in zip(ours, theirs, exact):
        assert our.dtype == jnp.bfloat16
        errors = [np.abs(np.asarray(x, np.float32) - want).max() for x in (our, their)]
        assert errors[0] < 2 * errors[1] and errors[0] < 0.03 * np.abs(want).max()


def test_large_logits_do_not_overflow(inputs):
    (q, k, v), weight = inputs
    for array in value_and_gradients(attention, (1e3 * q, k, v), weight):
        assert np.isfinite(array).all()
