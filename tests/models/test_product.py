"""The product of linear layers and its own backward pass against JAX's and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.models.layers import linear
from lightningdit_jax.models.product import product


def value_and_gradients(x, matrix, grad):
    out, pull_back = jax.vjp(product, x, matrix)
    return [np.asarray(part, np.float64) for part in (out, *pull_back(grad))]


@pytest.mark.parametrize(
    ("dtype", "lead", "tolerance"),
    [(jnp.float32, (3, 5), 1e-6), (jnp.float32, (7,), 1e-6), (jnp.bfloat16, (3, 5), 4e-3)],
)
def test_values_and_gradients(dtype, lead, tolerance):
    rng = np.random.default_rng(0)
    shapes = ((*lead, 6), (6, 4), (*lead, 4))
    inputs = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
    x, matrix, grad = (np.asarray(array, np.float64) for array in inputs)
    rows, grad_rows = x.reshape(-1, 6), grad.reshape(-1, 4)
    want = (x @ matrix, grad @ matrix.T, rows.T @ grad_rows)
    for ours, exact in zip(value_and_gradients(*inputs), want):
        assert ours.shape == exact.shape
        assert np.linalg.norm(ours - exact) < tolerance * np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("inputs", "outputs"), [(6, 4), (6, (2, 3)), ((2, 3), 4), ((3, 2), (4, 5))]
)
def test_linear_over_several_axes_is_flax_without_it(inputs, outputs):
    layer = linear(inputs, outputs, dtype=jnp.float32, rngs=nnx.Rngs(0))
    axes = inputs if isinstance(inputs, tuple) else (inputs,)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, *axes)), jnp.float32)
    got = nnx.value_and_grad(lambda layer: jnp.sum(jnp.sin(layer(x))))(layer)
    layer.dot_general = jax.lax.dot_general
    want = nnx.value_and_grad(lambda layer: jnp.sum(jnp.sin(layer(x))))(layer)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
