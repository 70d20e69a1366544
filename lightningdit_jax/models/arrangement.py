"""Fused kernels in the order that suits matrix units, and back in that of checkpoints.

In a checkpoint the parts of a fused kernel (q, k and v; gate and value) alternate within a row, and
heads are an axis of their own, which TPUs pad from 72 to 128. Taking a part out copies, gathers
carry the padding, and products run at half their speed. The first direction costs next to nothing,
once a step, where each device holds a piece; the second cancels against the uses.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lightningdit_jax.tree_paths import map_named

_FUSED = re.compile(r"(^|/)(qkv|w12)/kernel(/|$)")


def parts_first(blocks: Any) -> Any:
    """Stacked blocks, whose fused kernels [L, D, P, ...] become [L, P, D, -1]."""

    def arrange(kernel: jax.Array) -> jax.Array:
        return jnp.moveaxis(kernel.reshape(*kernel.shape[:3], -1), 2, 1)

    return _map_fused(arrange, blocks)


def parts_as_saved(block: Any, blocks: Any) -> Any:
    """One block of parts_first(blocks), whose fused kernels become [D, P, ...] again.

    Of `blocks` only the shapes are needed.
    """

    def restore(kernel: jax.Array, saved: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.moveaxis(kernel, 0, 1).reshape(saved.shape[1:])

    return _map_fused(restore, block, blocks)


def _map_fused(function: Callable[..., jax.Array], tree: Any, *others: Any) -> Any:
    def visit(name: str, leaf: jax.Array, *more: Any) -> jax.Array:
        return function(leaf, *more) if _FUSED.search(name) else leaf

    return map_named(visit, tree, *others)
