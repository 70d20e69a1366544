"""Digests of arrays: the same on any mesh, computed where the bytes are, added up where read.

A digest is two sums modulo 2**32 over all elements of a mix of the element's bits and its index in
the whole array. So the parts that lie on several devices and processes are digested each on its
own, in any order, and what two hold of the same array is added; no array travels. One changed
element changes the first sum for certain, since the mix is one to one for each index; anything else
(more elements, elements in each other's places) goes unnoticed once in 2**64. It is made to find
damage, not forgery.

Imports nothing of ours but names of leaves.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lightningdit_jax.tree_paths import named_leaves

# Below this NumPy is fast enough and nothing is compiled; arrays on the host are cut into pieces of
# at most _PIECE bytes, so that little memory is needed beside them.
_SMALL = 2**20
_PIECE = 2**25


@dataclasses.dataclass(frozen=True)
class ArrayDigest:
    """dtype and shape of a whole array, and the sums over `elements` of its elements."""

    dtype: str
    shape: tuple[int, ...]
    elements: int
    sums: tuple[int, int]

    def __add__(self, other: "ArrayDigest") -> "ArrayDigest":
        """Of two disjoint parts of one array. Raises ValueError for those of two arrays."""
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            raise ValueError(f"{self} and {other} are not of one array")
        first, second = (int((a + b) % 2**32) for a, b in zip(self.sums, other.sums))
        elements = self.elements + other.elements
        return dataclasses.replace(self, elements=elements, sums=(first, second))

    def to_json(self) -> list:
        """[dtype, shape, elements, 16 hexadecimal digits]."""
        first, second = self.sums
        return [self.dtype, list(self.shape), self.elements, f"{first:08x}{second:08x}"]

    @classmethod
    def from_json(cls, value: list) -> "ArrayDigest":
        """The inverse of `to_json`. Raises ValueError or TypeError for anything else."""
        dtype, shape, elements, digits = value
        sums = (int(digits[:8], 16), int(digits[8:], 16))
        return cls(str(dtype), tuple(map(int, shape)), int(elements), sums)


class TreeDigests:
    """Digests of a tree's arrays as far as this process holds them, by name of leaf.

    Takes jax or NumPy arrays of elements of 1, 2, 4 or 8 bytes, and random keys. Computing is
    started here, so that the arrays may be donated afterwards, and waited for in `result`, in any
    thread. Of shards that are replicated one device counts.
    """

    def __init__(self, tree: Any):
        self._started = {name: _started(leaf) for name, leaf in named_leaves(tree)}

    def result(self) -> dict[str, ArrayDigest]:
        """Waits for the sums."""
        results = {}
        for name, (whole, parts) in self._started.items():
            for elements, sums in parts:
                first, second = map(int, np.asarray(sums).reshape(2))
                whole += dataclasses.replace(whole, elements=elements, sums=(first, second))
            results[name] = whole
        return results


def tree_digests(tree: Any) -> dict[str, ArrayDigest]:
    """Digests of the arrays of a tree, as far as this process holds them, by name of leaf."""
    return TreeDigests(tree).result()


def differing(
    found: Mapping[str, ArrayDigest], wanted: Mapping[str, ArrayDigest]
) -> dict[str, str]:
    """How arrays differ from the digests they should have, by name; empty for none."""
    differences = {}
    for name in sorted(found.keys() | wanted.keys()):
        if name not in wanted:
            differences[name] = "has no digest"
        elif name not in found:
            differences[name] = "is missing"
        elif (problem := _difference(found[name], wanted[name])) is not None:
            differences[name] = problem
    return differences


def _difference(found: ArrayDigest, wanted: ArrayDigest) -> str | None:
    there, here = ((d.dtype, list(d.shape)) for d in (found, wanted))
    if there != here:
        return f"is {there[0]} {there[1]}, but {here[0]} {here[1]} was saved"
    return None if found == wanted else "holds other values than were saved"


def _started(leaf: Any) -> tuple[ArrayDigest, list[tuple[int, Any]]]:
    """An empty digest of the array, and of each part its number of elements and pending sums."""
    dtype = str(leaf.dtype)
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    shape = tuple(leaf.shape)
    parts = list(_parts(leaf))
    sharding = leaf.sharding if isinstance(leaf, jax.Array) else None
    if isinstance(sharding, NamedSharding) and is_cut(sharding, shape, leaf.dtype.itemsize):
        # One program for all devices, where else each would have one of its own compiled.
        sums = sums_of_parts(sharding.mesh, sharding.spec)(leaf)
        on_device = {shard.device: shard.data for shard in sums.addressable_shards}
        pending = [(part.size, on_device[device]) for _, part, device in parts]
    else:
        pending = [(part.size, _sums(part, at, shape)) for at, part, _ in parts]
    return ArrayDigest(dtype, shape, 0, (0, 0)), pending


def is_cut(sharding: NamedSharding, shape: tuple[int, ...], itemsize: int) -> bool:
    """Whether devices hold large parts of an array, of one size; the same in every process."""
    part = math.prod(sharding.shard_shape(shape)) * itemsize
    return part > _SMALL and not sharding.is_fully_replicated


def _parts(leaf: Any) -> Iterator[tuple[tuple[int, ...], Any, Any]]:
    """(index of the first element, array, device) of the parts that this process counts."""
    if isinstance(leaf, jax.Array):
        for shard in leaf.addressable_shards:
            if shard.replica_id == 0:
                yield tuple(index.start or 0 for index in shard.index), shard.data, shard.device
        return
    if leaf.nbytes <= _PIECE or leaf.ndim == 0:
        yield (0,) * leaf.ndim, leaf, None
        return
    rows = max(1, _PIECE * len(leaf) // leaf.nbytes)
    for first in range(0, len(leaf), rows):
        yield (first, *(0,) * (leaf.ndim - 1)), leaf[first : first + rows], None


@functools.cache
def sums_of_parts(mesh: Mesh, spec: PartitionSpec) -> Any:
    """A compiled function: sharded array -> the sums of each device's part, uint32 [devices, 2]."""

    def of_parts(leaf: jax.Array) -> jax.Array:
        def of_part(part: jax.Array) -> jax.Array:
            names = [*spec, *[None] * (part.ndim - len(spec))]
            at = [
                0 if name is None else jax.lax.axis_index(name) * size
                for name, size in zip(names, part.shape)
            ]
            return _sums_of_words(part, at, leaf.shape)[None]

        return jax.shard_map(
            of_part,
            mesh=mesh,
            in_specs=spec,
            out_specs=PartitionSpec(mesh.axis_names),
            check_vma=False,
        )(leaf)

    return jax.jit(of_parts)


def _sums(part: Any, at: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    """The two sums over a part of an array of that shape, of which at is its first element."""
    if part.nbytes <= _SMALL:
        return _sums_by_numpy(np.asarray(part), at, shape)
    # Modulo 2**32 here, since an index of an axis may be larger than an int32 takes.
    return _sums_by_xla(part, np.array(at, np.uint32), shape)


def _sums_by_numpy(part: np.ndarray, at: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    words = np.asarray(part, order="C")[..., None].view(f"u{min(part.dtype.itemsize, 4)}")
    first, second = _mixed(words.astype(np.uint32), _indices(np, words.shape, at, shape))
    return int(first.sum(dtype=np.uint64) % 2**32), int(second.sum(dtype=np.uint64) % 2**32)


@functools.partial(jax.jit, static_argnums=2)
def _sums_by_xla(part: jax.Array, at: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return _sums_of_words(part, at, shape)


def _sums_of_words(part: jax.Array, at: Any, shape: tuple[int, ...]) -> jax.Array:
    """uint32 [2]"""
    if part.dtype == bool:
        part = part.astype(jnp.uint8)
    size = part.dtype.itemsize
    words = jax.lax.bitcast_convert_type(part, jnp.dtype(f"u{min(size, 4)}"))
    words = words if size == 8 else words[..., None]
    first, second = _mixed(words.astype(jnp.uint32), _indices(jnp, words.shape, at, shape))
    zero = np.uint32(0)
    # One reduction for both: the array is read once.
    sums = jax.lax.reduce(
        (first, second),
        (zero, zero),
        lambda a, b: (a[0] + b[0], a[1] + b[1]),
        tuple(range(words.ndim)),
    )
    return jnp.stack(sums)


def _indices(xp: Any, part: tuple[int, ...], at: Any, shape: tuple[int, ...]) -> Any:
    """Index in the whole array of each 32-bit word of a part, modulo 2**32, broadcastable.

    part: shape of its words, whose last axis counts those of an element.
    """
    last = xp.arange(part[-1], dtype=np.uint32)
    total, stride = last, part[-1]
    for axis in reversed(range(len(shape))):
        index = xp.arange(part[axis], dtype=np.uint32) + xp.asarray(at[axis], np.uint32)
        index = index * np.uint32(stride % 2**32)
        total = total + index.reshape(-1, *(1,) * (len(shape) - axis))
        stride *= shape[axis]
    return total


def _mixed(words: Any, indices: Any) -> tuple[Any, Any]:
    """Two mixes of each word and its index: rounds of MurmurHash3's finalizer (Appleby 2011)."""
    first = words ^ (indices * np.uint32(0x9E3779B1))
    first = (first ^ (first >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    first = (first ^ (first >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    second = (first ^ (first >> np.uint32(16))) * np.uint32(0x27D4EB2F)
    return first, second ^ (second >> np.uint32(15))
