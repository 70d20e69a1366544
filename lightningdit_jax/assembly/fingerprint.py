"""A short name for a set of weights: the same on any mesh, another for other weights."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lightningdit_jax.tree_paths import named_leaves


def weights_fingerprint(params: Any) -> str:
    """16 hexadecimal digits of a tree of arrays, wherever its arrays lie.

    Integer sums modulo 2**32 of the bits and of the bits times their position: exact in any order,
    so sharding changes nothing. For telling weights apart, not against forgery.
    """
    leaves = named_leaves(params)
    sums = jax.device_get(_bit_sums([leaf for _, leaf in leaves]))
    digest = hashlib.sha256()
    for (name, leaf), pair in zip(leaves, sums):
        digest.update(f"{name} {leaf.shape} {leaf.dtype} ".encode())
        digest.update(np.asarray(pair, "<u4").tobytes())
    return digest.hexdigest()[:16]


@jax.jit
def _bit_sums(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_sums(leaf) for leaf in leaves]


def _sums(leaf: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32)
    # Odd weights lose no bit of what they multiply.
    weight = jnp.ones((), jnp.uint32)
    for axis in range(bits.ndim):
        index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        weight = weight * np.uint32(0x9E3779B1) + 2 * index
    return jnp.stack([jnp.sum(bits, dtype=jnp.uint32), jnp.sum(bits * weight, dtype=jnp.uint32)])
