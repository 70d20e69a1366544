"""Whether the kernel of models.pallas_attention is right on the device that is there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lightningdit_jax.models.attention import attention
from lightningdit_jax.models.embeddings import apply_rotary, rotary_tables
from lightningdit_jax.models.lightningdit import LightningDiTConfig
from lightningdit_jax.models.pallas_attention import pallas_attention, unsharded

# Of the norms of output and gradients; roundings to bfloat16 make a hundredth.
TOLERANCE = 0.03


@functools.lru_cache(maxsize=16)
def kernel_fault(device: jax.Device, architecture: LightningDiTConfig, num_heads: int) -> str:
    """What is wrong with attention's kernel on a device, empty where nothing is.

    Output and gradients of an image with random numbers, against XLA's in float32. num_heads: of a
    device.
    """
    try:
        error = _largest_error(device, architecture, num_heads)
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as failure:
        return f"it does not run: {str(failure).splitlines()[0]}"
    if not error < TOLERANCE:
        return f"it differs from XLA's by {error:.2g}, where up to {TOLERANCE} are roundings"
    return ""


def _largest_error(
    device: jax.Device, architecture: LightningDiTConfig, num_heads: int
) -> np.floating:
    head_dim, tokens = architecture.head_dim, architecture.grid**2
    grid = architecture.grid if architecture.use_rope else None
    rng, width = np.random.default_rng(0), num_heads * head_dim
    shapes = [(1, tokens, width)] * 4 + [(3, width)]
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes]
    *qkv, grad, bias = jax.device_put(arrays, device)

    def kernel(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
        return pallas_attention(q, k, v, bias, head_dim, grid, unsharded)

    def reference(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
        heads = (1, tokens, num_heads, head_dim)
        q, k, v = ((x + row).reshape(heads) for x, row in zip((q, k, v), bias))
        if grid is not None:
            tables = rotary_tables(grid, head_dim)
            q, k = apply_rotary(q, *tables), apply_rotary(k, *tables)
        with jax.default_matmul_precision("highest"):
            return attention(q, k, v).reshape(1, tokens, width)

    @functools.partial(jax.jit, static_argnums=0)
    def both(function, inputs, grad):
        out, pull_back = jax.vjp(function, *inputs)
        return out, *pull_back(grad)

    ours = both(kernel, (*qkv, bias), grad)
    exact = [x.astype(jnp.float32) for x in (*qkv, bias, grad)]
    theirs = both(reference, tuple(exact[:-1]), exact[-1])
    pairs = zip(*([np.asarray(x, np.float32) for x in results] for results in (ours, theirs)))
    return max(np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in pairs)
