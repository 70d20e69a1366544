"""Orthogonalization on Gram matrices: the iteration on the matrix itself in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightningdit_jax.models.matmul_flops import matmul_flops
from lightningdit_jax.training import newton_schulz
from lightningdit_jax.training.newton_schulz import orthogonalization_flops, orthogonalize


def iterated(x, steps=5):
    """As in the note on Muon, without any of our ways of writing it. x: [R, C], of either order."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = np.asarray(x, np.float64)
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def decaying(rows, cols, seed=0):
    """Singular values 1, 1/2, 1/3, ... as gradients have them: the small ones are what drowns."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.normal(size=(rows, rows)))
    right, _ = np.linalg.qr(rng.normal(size=(cols, rows)))
    return (left / np.arange(1, rows + 1)) @ right.T


def distance(found, wanted):
    return np.linalg.norm(np.asarray(found, np.float64) - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("block", [12, pytest.param(4, marks=pytest.mark.slow)])
def test_in_float32_it_is_the_iteration(block, monkeypatch):
    """Products cut to three blocks, and to nine as those of XL; matrices may differ in width."""
    monkeypatch.setattr(newton_schulz, "BLOCK", block)
    rows = 36
    stacks = [
        np.stack([decaying(rows, rows), decaying(rows, rows, 1)]),
        np.stack([decaying(rows, rows + 10), np.zeros((rows, rows + 10))]),
    ]
    run = jax.jit(functools.partial(orthogonalize, dtype=jnp.float32))
    found = run([jnp.asarray(x, jnp.float32) for x in stacks])
    for stack, result in zip(stacks, found, strict=True):
        for x, y in zip(stack, result, strict=True):
            np.testing.assert_allclose(y, iterated(x), atol=2e-4)
    assert not np.any(found[1][1])


def test_in_bfloat16_it_is_near_and_not_in_one_group(monkeypatch):
    x = decaying(64, 80)
    stack, wanted = jnp.asarray(x, jnp.float32)[None], iterated(x)
    (found,) = jax.jit(orthogonalize)([stack])
    assert found.dtype == jnp.bfloat16 and distance(found[0], wanted) < 0.06
    monkeypatch.setattr(newton_schulz, "GROUPS", (5,))
    (diverged,) = orthogonalize([stack])
    assert distance(diverged[0], wanted) > 0.5


def test_rows_and_columns_of_zeros_change_nothing():
    x = jnp.asarray(decaying(12, 20), jnp.float32)
    run = jax.jit(orthogonalize)
    (wanted,) = run([x[None]])
    (found,) = run([jnp.pad(x, ((0, 4), (0, 8)))[None]])
    np.testing.assert_allclose(found[0, :12, :20].astype(float), wanted[0].astype(float), atol=0.02)
    assert not np.any(found[0, 12:]) and not np.any(found[0, :, 20:])


@pytest.mark.parametrize(("rows", "cols"), [(32, 96), (1152, 3456)])
def test_flops_are_those_of_the_trace(rows, cols):
    exact = functools.partial(orthogonalize, dtype=jnp.float32)
    traced = matmul_flops(exact, [jax.ShapeDtypeStruct((1, rows, cols), jnp.float32)])
    assert orthogonalization_flops(rows, cols) == pytest.approx(traced)


def test_symmetry_saves_four_ninths_of_xl_s_small_products():
    small = 2 * 1152**2 * (14 * 1152 + 2 * 3456)
    wide = 2 * 1152**2 * 2 * 3456
    assert orthogonalization_flops(1152, 3456) == pytest.approx(5 / 9 * small + wide)
