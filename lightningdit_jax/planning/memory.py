"""Bytes that arrays really take on a device, which may store them in tiles."""

import itertools
import math
from typing import Any

import jax
import numpy as np


def held_bytes(tree: Any, platform: str) -> int:
    """Of one device's parts of a tree of ShapeDtypeStructs with shardings."""
    return sum(device_bytes(leaf, platform) for leaf in jax.tree.leaves(tree))


def device_bytes(leaf: jax.ShapeDtypeStruct, platform: str) -> int:
    """Of one device's part of a sharded array. leaf: with its sharding.

    A TPU stores tiles of 8 rows and 128 columns and fills them up. The compiler takes for rows and
    columns the axes where that costs least.
    """
    shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape
    count, size = math.prod(shape), np.dtype(leaf.dtype).itemsize
    if platform != "tpu" or not count:
        return count * size
    axes = shape if len(shape) > 1 else (*shape, 1, 1)
    pairs = itertools.permutations(axes, 2)
    return round(
        count * size * min(_fill(rows, 8) * _fill(columns, 128) for rows, columns in pairs)
    )


def _fill(size: int, tile: int) -> float:
    """What an axis takes over what is in it; tiles of few rows are as small a power of two."""
    if tile == 8 and size < tile:
        tile = 1 << (size - 1).bit_length()
    return -(-size // tile) * tile / size
