"""A stack of equal blocks: made one after another, kept along a leading axis, run in a loop.

Blocks are a module whose parameters have one axis more than a block's, [L, ...]. Loops run over
plain arrays: a module is put together inside the loop's body.
"""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from lightningdit_jax.models.arrangement import parts_as_saved, parts_first
from lightningdit_jax.models.rngs import CountedRngs

Activations = dict[int, jax.Array]


def make_stack(
    make_block: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs
) -> nnx.Module:
    """`depth` blocks with keys of their own, as one module with parameters [depth, ...].

    As jax.vmap over the keys would give, bit for bit, in a third of the compile time.
    """
    keys = jax.random.split(rngs.params(), depth)
    stacked = jax.lax.map(lambda key: nnx.state(make_block(CountedRngs(key))), keys)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make_block(CountedRngs(0))))
    return nnx.merge(graphdef, stacked)


def run_stack(
    blocks: nnx.Module,
    run_block: Callable[[Any, jax.Array], jax.Array],
    x: jax.Array,
    *,
    policy: Callable[..., Any] | None = None,
    unroll: int = 1,
    fused_parts_first: bool = False,
    activations: Sequence[int] = (),
    last: int | None = None,
) -> tuple[jax.Array, Activations]:
    """All blocks in turn. x: [B, N, D] -> the same, and what some blocks made of it.

    run_block(block, x) -> x is one block. policy: what is kept of it for the backward pass, a
    policy of jax.checkpoint; None keeps all. unroll: blocks a step of the loop.
    fused_parts_first: see models.arrangement. activations: numbers of blocks, counted from 1, whose
    outputs [B, N, D] are returned by number; nothing is done for them where none is asked for, and
    of the others nothing is kept. last: number of the block to end after; None is the last one.
    Raises ValueError for a number that no block has.
    """
    graphdef, stacked = nnx.split(blocks)
    if last is not None:
        _check_numbers((last,), len(jax.tree.leaves(stacked)[0]))
        stacked = jax.tree.map(lambda leaf: leaf[:last], stacked)
    depth = len(jax.tree.leaves(stacked)[0])
    chex.assert_tree_shape_prefix(stacked, (depth,))
    _check_numbers(activations, depth)
    shapes = jax.eval_shape(lambda: stacked)

    def body(x: jax.Array, state: nnx.State) -> jax.Array:
        state = parts_as_saved(state, shapes) if fused_parts_first else state
        return run_block(nnx.merge(graphdef, state), x)

    if policy is not None:
        # Inside a loop nothing can be shared with the forward pass; without one the compiler
        # would find what is computed again and keep it instead.
        body = jax.checkpoint(body, policy=policy, prevent_cse=unroll >= depth)

    def step(carry: tuple[jax.Array, Activations], inputs: Any) -> tuple[Any, None]:
        (x, kept), (number, state) = carry, inputs
        x = body(x, state)
        # Chosen and not cut out of the outputs of all blocks, which would be kept for it; outside
        # of the body, or remat would compute them again.
        return (x, {k: jnp.where(number == k, x, before) for k, before in kept.items()}), None

    numbers = jnp.arange(1, depth + 1) if activations else None
    kept = {k: jnp.zeros_like(x) for k in activations}
    states = parts_first(stacked) if fused_parts_first else stacked
    return jax.lax.scan(step, (x, kept), (numbers, states), unroll=unroll)[0]


def _check_numbers(activations: Sequence[int], depth: int) -> None:
    wrong = [number for number in activations if not 1 <= number <= depth]
    if wrong:
        raise ValueError(
            f"activations of block {wrong[0]} are asked for; expected numbers from 1 to {depth}, "
            "the first block's and the last one's"
        )
