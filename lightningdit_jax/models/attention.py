"""Softmax attention with a backward pass of its own, for sequences of hundreds of tokens.

Left to automatic differentiation, the weights of all heads, [B, H, N, N], are kept between the
passes: they, not the products, are then what attention costs on a TPU.
"""

from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

IMPLEMENTATIONS = ("auto", "xla", "cudnn", "pallas")


def choose_implementation(
    dtype: np.dtype, head_dim: int, device: jax.Device | None = None
) -> Literal["xla", "cudnn"]:
    """What "auto" stands for on a device; None is the first of this machine.

    "cudnn" on an NVIDIA GPU of the Ampere generation or later, in bfloat16 and for heads that cuDNN
    takes; "xla" anywhere else.
    """
    device = jax.devices()[0] if device is None else device
    if "NVIDIA" not in device.device_kind or float(device.compute_capability) < 8:
        return "xla"
    return "cudnn" if dtype == jnp.bfloat16 and head_dim % 8 == 0 and head_dim <= 128 else "xla"


@jax.custom_vjp
def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(hd)) v. Each [B, N, H, hd] -> [B, N, H, hd], of one type.

    Logits and softmax are float32. The backward pass computes the weights again, after Dao et al.
    2022 (arXiv 2205.14135), and all of them at once.
    """
    return _output(q, k, v)


def _output(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    chex.assert_equal_shape([q, k, v])
    chex.assert_type([k, v], q.dtype)
    weights = _weights(q, k).astype(v.dtype)
    return checkpoint_name(jnp.einsum("BHNM,BMHK->BNHK", weights, v), "attention")


def _weights(q: jax.Array, k: jax.Array) -> jax.Array:
    # The XLA of TPUs knows this as one kernel: keep it a product and a softmax, and no more.
    logits = jnp.einsum("BNHK,BMHK->BHNM", q, k, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits * q.shape[-1] ** -0.5)


def _forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, Any]:
    out = _output(q, k, v)
    return out, (q, k, v, out)


def _backward(kept: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    q, k, v, out = kept
    weights = _weights(q, k)
    grad_v = jnp.einsum("BHNM,BNHK->BMHK", weights.astype(v.dtype), grad)
    grad_weights = jnp.einsum("BNHK,BMHK->BHNM", grad, v, preferred_element_type=jnp.float32)
    # The mean of grad_weights under the weights, [B, N, H], without a pass over [B, H, N, N].
    mean = (out.astype(jnp.float32) * grad.astype(jnp.float32)).sum(axis=-1)
    grad_logits = weights * (grad_weights - mean.swapaxes(1, 2)[..., None])
    grad_logits = (grad_logits * q.shape[-1] ** -0.5).astype(q.dtype)
    grad_q = jnp.einsum("BHNM,BMHK->BNHK", grad_logits, k)
    grad_k = jnp.einsum("BHNM,BNHK->BMHK", grad_logits, q)
    return grad_q, grad_k, grad_v


attention.defvjp(_forward, _backward)
