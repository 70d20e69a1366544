"""Layers of the transformer block: norms, attention, MLPs. Parameters are float32.

Fused projections keep their parts as axes of their own (q, k and v; gate and value), so that
tensor parallelism cuts heads and hidden width and never across the parts. They are fused in the
checkpoint alone: a product for each part is what XLA fuses its neighbors into.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from lightningdit_jax.models.attention import attention
from lightningdit_jax.models.embeddings import apply_rotary, rotary_tables
from lightningdit_jax.models.float8 import Float8Linear
from lightningdit_jax.models.pallas_attention import Shard, pallas_attention
from lightningdit_jax.models.product import dot_general, product

PRODUCTS = ("dtype", "float8")  # in a layer's dtype, or of float8 numbers (models/float8.py)

xavier_uniform = nnx.initializers.xavier_uniform()


def linear(
    in_features: int | tuple[int, ...],
    out_features: int | tuple[int, ...],
    *,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
    kernel_init: nnx.Initializer = xavier_uniform,
    use_bias: bool = True,
    products: str = PRODUCTS[0],
    parts: int = 1,
) -> nnx.LinearGeneral:
    """A linear layer over the last axes; the kernel is [*in_features, *out_features].

    kernel_init sees the matrix, all inputs by all outputs, as in the release. products: one of
    PRODUCTS; parts: of a fused projection.
    """
    inputs = (in_features,) if isinstance(in_features, int) else in_features
    float8 = functools.partial(Float8Linear, parts=parts)
    return (float8 if products == "float8" else nnx.LinearGeneral)(
        inputs,
        out_features,
        axis=tuple(range(-len(inputs), 0)),
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=kernel_init,
        dot_general=dot_general,
        rngs=rngs,
    )


def project_parts(layer: nnx.LinearGeneral, x: jax.Array) -> tuple[jax.Array, ...]:
    """The parts of a fused projection. Kernel [D, P, ...], x: [..., D] -> P times [..., ...]."""

    def add(x: jax.Array, bias: jax.Array) -> jax.Array:
        return jax.lax.platform_dependent(x, bias, cuda=_add_flat, default=_add_shaped)

    parts, biases = _unbiased_parts(layer, x)
    return tuple(map(add, parts, biases))


def _unbiased_parts(
    layer: nnx.LinearGeneral, x: jax.Array
) -> tuple[list[jax.Array], tuple[jax.Array, ...]]:
    """The products, P times [..., F] with F all that is behind the parts, and their biases."""
    kernel, bias = (p[...].astype(layer.dtype) for p in (layer.kernel, layer.bias))
    x = x.astype(layer.dtype)
    if isinstance(layer, Float8Linear):
        x, kernel = layer.rounded(x, kernel)
    parts = [product(x, part.reshape(len(part), -1)) for part in jnp.unstack(kernel, axis=1)]
    if isinstance(layer, Float8Linear):
        parts = layer.with_rounded_gradients(parts)
    return parts, jnp.unstack(bias)


def _add_shaped(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x as [..., *shape of bias], plus bias. x: [..., D]."""
    return x.reshape(*x.shape[:-1], *bias.shape) + bias


def _add_flat(x: jax.Array, bias: jax.Array) -> jax.Array:
    """The same, added before x is cut into heads: so cuBLAS adds it at the end of the product."""
    return (x + bias.reshape(-1)).reshape(*x.shape[:-1], *bias.shape)


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + 1e-6) in float32, cast to x's type, times a weight. Zhang 2019."""

    def __init__(self, dim: int):
        self.scale = nnx.Param(jnp.ones(dim, jnp.float32))

    def __call__(self, x: jax.Array, gain: jax.Array | float = 1.0) -> jax.Array:
        """x: [..., dim] -> the same. gain, which broadcasts with x, multiplies the weight."""
        x32 = x.astype(jnp.float32)
        x32 *= jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + 1e-6)
        return x32.astype(x.dtype) * (self.scale[...] * gain).astype(x.dtype)


def token_norm(dim: int, use_rmsnorm: bool, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Module:
    """Norm before a branch: RMSNorm, or LayerNorm without scale and bias (DiT)."""
    if use_rmsnorm:
        return RMSNorm(dim)
    return nnx.LayerNorm(
        dim,
        epsilon=1e-6,
        use_bias=False,
        use_scale=False,
        use_fast_variance=False,
        dtype=dtype,
        rngs=rngs,
    )


def head_norm(dim: int, use_rmsnorm: bool, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Module:
    """Norm of queries and keys: RMSNorm, or affine LayerNorm with PyTorch's eps 1e-5."""
    if use_rmsnorm:
        return RMSNorm(dim)
    return nnx.LayerNorm(dim, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs)


def modulated(
    norm: nnx.Module, x: jax.Array, shift: jax.Array | None, scale: jax.Array
) -> jax.Array:
    """norm(x) (1 + scale) + shift. x: [B, N, D], shift and scale [B, 1, D]. DiT."""
    if isinstance(norm, RMSNorm):
        # One factor per image: the gradients of weight and scale share their sum over tokens.
        x = norm(x, 1 + scale.astype(jnp.float32))
    else:
        x = norm(x) * (1 + scale)
    return x if shift is None else x + shift


class Attention(nnx.Module):
    """Multi-head self-attention with optional q/k norm and 2-D rotary embedding.

    x: [B, N, D] -> [B, N, D]. Softmax in float32. implementation: "xla" is `attention`, "pallas"
    `pallas_attention` with its `shard`, others are those of jax.nn.dot_product_attention.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid: int,
        *,
        use_qknorm: bool,
        use_rope: bool,
        use_rmsnorm: bool,
        implementation: str,
        shard: Shard,
        products: str,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        head_dim = dim // num_heads
        self.grid, self.head_dim = grid, head_dim
        self.use_qknorm, self.use_rope = use_qknorm, use_rope
        self.implementation, self.shard = implementation, shard
        options = {"dtype": dtype, "products": products, "rngs": rngs}
        self.qkv = linear(dim, (3, num_heads, head_dim), parts=3, **options)
        if use_qknorm:
            self.q_norm = head_norm(head_dim, use_rmsnorm, dtype=dtype, rngs=rngs)
            self.k_norm = head_norm(head_dim, use_rmsnorm, dtype=dtype, rngs=rngs)
        self.proj = linear((num_heads, head_dim), dim, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.implementation == "pallas":
            return self._in_one_kernel(x)
        q, k, v = project_parts(self.qkv, x)
        if self.use_qknorm:
            q, k = checkpoint_name(q, "qkv"), checkpoint_name(k, "qkv")
            q, k = self.q_norm(q), self.k_norm(k)
        if self.use_rope:
            cos, sin = rotary_tables(self.grid, self.head_dim)
            q, k = apply_rotary(q, cos, sin), apply_rotary(k, cos, sin)
        q, k, v = (checkpoint_name(part, "qkv") for part in (q, k, v))
        if self.implementation == "xla":
            x = attention(q, k, v)
        else:
            x = jax.nn.dot_product_attention(q, k, v, implementation=self.implementation)
            x = checkpoint_name(x, "attention")
        return self.proj(x)

    def _in_one_kernel(self, x: jax.Array) -> jax.Array:
        parts, biases = _unbiased_parts(self.qkv, x)
        q, k, v = (checkpoint_name(part, "qkv") for part in parts)
        bias = jnp.stack([bias.reshape(-1) for bias in biases])
        if self.use_qknorm:
            q, k, v = (part + row for part, row in zip((q, k, v), bias))
            bias = jnp.zeros_like(bias)  # it has to come before the norms
            heads = (*q.shape[:-1], -1, self.head_dim)
            q = checkpoint_name(self.q_norm(q.reshape(heads)).reshape(q.shape), "qkv")
            k = checkpoint_name(self.k_norm(k.reshape(heads)).reshape(k.shape), "qkv")
        grid = self.grid if self.use_rope else None
        x = pallas_attention(q, k, v, bias, self.head_dim, grid, self.shard)
        kernel, bias = (p[...].astype(x.dtype) for p in (self.proj.kernel, self.proj.bias))
        multiply = self.proj.product if isinstance(self.proj, Float8Linear) else product
        return multiply(x, kernel.reshape(-1, kernel.shape[-1])) + bias


class SwiGLU(nnx.Module):
    """w3(silu(gate) * value) with gate and value from the fused w12. Shazeer 2020."""

    def __init__(
        self, dim: int, hidden: int, *, products: str = "dtype", dtype: DTypeLike, rngs: nnx.Rngs
    ):
        options = {"dtype": dtype, "products": products, "rngs": rngs}
        self.w12 = linear(dim, (2, hidden), parts=2, **options)
        self.w3 = linear(hidden, dim, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D]."""
        gate, value = (checkpoint_name(p, "mlp_hidden") for p in project_parts(self.w12, x))
        return self.w3(nnx.silu(gate) * value)


class GeluMlp(nnx.Module):
    """Linear, GELU (tanh approximation), linear. DiT."""

    def __init__(
        self, dim: int, hidden: int, *, products: str = "dtype", dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.fc1 = linear(dim, hidden, dtype=dtype, products=products, rngs=rngs)
        self.fc2 = linear(hidden, dim, dtype=dtype, products=products, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D]."""
        x = checkpoint_name(self.fc1(x), "mlp_hidden")
        return self.fc2(nnx.gelu(x, approximate=True))
