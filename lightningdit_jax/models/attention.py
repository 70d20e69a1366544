"""Softmax attention with a backward pass of its own, for sequences of hundreds of tokens.

Left to automatic differentiation, the weights of all heads, [B, H, N, N] in float32, are written
and kept between the passes: they, not the products, are then what attention costs on a TPU.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name


@jax.custom_vjp
def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(hd)) v. Each [B, N, H, hd] -> [B, N, H, hd], of one type.

    Logits and weights have the type of q, statistics of the softmax are float32. The backward pass
    computes the weights again from the logarithm of their sum (Dao et al. 2022, arXiv 2205.14135).
    """
    return _forward(q, k, v)[0]


def _logits(q: jax.Array, k: jax.Array) -> jax.Array:
    scaled = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    return jnp.einsum("BNHK,BMHK->BHNM", scaled, k).astype(jnp.float32)


def _forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The output, and the logarithm of the sum of exponentials [B, H, N, 1]."""
    logits = _logits(q, k)
    highest = logits.max(axis=-1, keepdims=True)
    weights = jnp.exp(logits - highest).astype(v.dtype)
    # A column of ones has the product sum the weights too: a pass of its own costs more.
    values = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
    out = jnp.einsum("BHNM,BMHK->BHNK", weights, values, preferred_element_type=jnp.float32)
    out, total = out[..., :-1], out[..., -1:]
    out = (out / total).astype(v.dtype).swapaxes(1, 2)
    return checkpoint_name(out, "attention"), checkpoint_name(highest + jnp.log(total), "attention")


def _forward_for_gradient(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, Any]:
    out, log_total = _forward(q, k, v)
    return out, (q, k, v, out, log_total)


def _backward(kept: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    q, k, v, out, log_total = kept
    weights = jnp.exp(_logits(q, k) - log_total).astype(v.dtype)
    grad_v = jnp.einsum("BHNM,BNHK->BMHK", weights, grad)
    grad_weights = jnp.einsum("BNHK,BMHK->BHNM", grad, v).astype(jnp.float32)
    mean = (out.astype(jnp.float32) * grad.astype(jnp.float32)).sum(axis=-1)  # [B, N, H]
    grad_logits = weights.astype(jnp.float32) * (grad_weights - mean.swapaxes(1, 2)[..., None])
    grad_logits = (grad_logits * q.shape[-1] ** -0.5).astype(q.dtype)
    grad_q = jnp.einsum("BHNM,BMHK->BNHK", grad_logits, k)
    grad_k = jnp.einsum("BHNM,BNHK->BMHK", grad_logits, q)
    return grad_q, grad_k, grad_v


attention.defvjp(_forward_for_gradient, _backward)
