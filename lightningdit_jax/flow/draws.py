"""Random numbers that depend on the sample alone, not on its batch or device."""

from collections.abc import Callable, Sequence

import jax

# (key, shape) -> one sample's numbers, such as jax.random.normal
Draw = Callable[[jax.Array, Sequence[int]], jax.Array]


def draw_samples(
    draw: Draw,
    seed: int | jax.Array,
    indices: jax.Array,
    shape: Sequence[int],
    number: int | jax.Array | None = None,
) -> jax.Array:
    """Numbers of samples by seed and global index: indices [B] -> [B, *shape].

    number: which draw of a sample this is, where there are several; None is one apart from all.
    """
    root = jax.random.key(seed)

    def one(index: jax.Array) -> jax.Array:
        key = jax.random.fold_in(root, index)
        return draw(key if number is None else jax.random.fold_in(key, number), shape)

    return jax.vmap(one)(indices)
