"""Attention and its own backward pass against JAX's."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightningdit_jax.models.attention import attention, choose_implementation


def inputs(dtype, spread=3.0):
    """Queries, keys, values, and a gradient of the output. Each [B, N, H, hd]."""
    q, k, v, grad = np.random.default_rng(0).normal(size=(4, 2, 6, 3, 8))
    return [jnp.asarray(x, dtype) for x in (spread * q, k, v, grad)]


def value_and_gradients(function, q, k, v, grad):
    out, pull_back = jax.vjp(function, q, k, v)
    return [np.asarray(x, np.float32) for x in (out, *pull_back(grad))]


def distance(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def test_values_and_gradients():
    got = value_and_gradients(attention, *inputs(jnp.float32))
    want = value_and_gradients(jax.nn.dot_product_attention, *inputs(jnp.float32))
    for ours, theirs in zip(got, want):
        assert distance(ours, theirs) < 1e-6


def test_bfloat16_rounds_no_more_than_its_inputs_and_outputs():
    rounded = inputs(jnp.bfloat16)
    exact = [x.astype(jnp.float32) for x in rounded]
    want = value_and_gradients(jax.nn.dot_product_attention, *exact)
    for ours, theirs in zip(value_and_gradients(attention, *rounded), want):
        assert 0 < distance(ours, theirs) < 0.01  # three times the rounding of one number


def test_large_logits_do_not_overflow():
    for array in value_and_gradients(attention, *inputs(jnp.float32, spread=1e4)):
        assert np.isfinite(array).all()


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "chosen"),
    [
        (("NVIDIA H100 80GB HBM3", "9.0"), jnp.bfloat16, 72, "cudnn"),
        (("NVIDIA H100 80GB HBM3", "9.0"), jnp.float32, 72, "xla"),
        (("NVIDIA H100 80GB HBM3", "9.0"), jnp.bfloat16, 12, "xla"),
        (("NVIDIA H100 80GB HBM3", "9.0"), jnp.bfloat16, 136, "xla"),
        (("NVIDIA A100-SXM4-80GB", "8.0"), jnp.bfloat16, 64, "cudnn"),
        (("NVIDIA T4", "7.5"), jnp.bfloat16, 64, "xla"),
        (("AMD Instinct MI300X", "gfx942"), jnp.bfloat16, 64, "xla"),
        (("TPU v5 lite", None), jnp.bfloat16, 64, "xla"),
    ],
)
def test_auto_is_cudnn_where_cudnn_takes_it(monkeypatch, device, dtype, head_dim, chosen):
    kind, capability = device
    fake = types.SimpleNamespace(device_kind=kind, compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda: [fake])
    assert choose_implementation(np.dtype(dtype), head_dim) == chosen
