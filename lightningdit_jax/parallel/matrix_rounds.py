"""Work on many matrices that is dealt out to all devices of a mesh, whole matrices to each.

Matrices are sorted by size and dealt in rounds, one to each device, so that all have about the same
to do. What lies cut over devices travels there and back by all-to-alls, as much of it as a device
holds: none has a whole stack of what is cut.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

Function = Callable[[list[jax.Array]], list[jax.Array]]
# Numbers of the first matrix and of the one after the last, and of the stack they are in.
Piece = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Deal:
    """Rounds of one shape [rows, cols], which all their matrices are filled up to with zeros.

    pieces: of which stacks they are. rounds: how many of these matrices each device gets.
    """

    rows: int
    cols: int
    rounds: int
    pieces: tuple[Piece, ...]


def deals(shapes: Sequence[tuple[int, ...]], num_devices: int) -> list[Deal]:
    """How stacks of these shapes [S, R, C] are dealt out."""
    order = sorted(range(len(shapes)), key=lambda i: shapes[i][1:], reverse=True)
    cards = [(i, number) for i in order for number in range(shapes[i][0])]
    rounds = [cards[at : at + num_devices] for at in range(0, len(cards), num_devices)]

    def shape(cards: list[tuple[int, int]]) -> tuple[int, int]:
        rows, cols = zip(*(shapes[i][1:] for i, _ in cards), strict=True)
        return max(rows), max(cols)

    found = []
    for (rows, cols), alike in itertools.groupby(rounds, shape):
        dealt = list(alike)
        pieces = []
        for i, run in itertools.groupby(itertools.chain(*dealt), lambda card: card[0]):
            numbers = [number for _, number in run]
            pieces.append((numbers[0], numbers[-1] + 1, i))
        found.append(Deal(rows, cols, len(dealt), tuple(pieces)))
    return found


def map_matrices(
    function: Function, stacks: Sequence[jax.Array], mesh: Mesh | AbstractMesh | None
) -> list[jax.Array]:
    """function of all matrices of stacks [S, R, C], each of which one device of the mesh computes.

    function: takes stacks of as many rows and returns stacks of the same shapes, treats each matrix
    on its own, and gives zeros where rows or columns are zeros. The order of rows and of columns
    must not matter to it: where several axes of an array were merged to rows or columns and the
    mesh cuts them, it sees them in another order. mesh: None is one device.
    """
    num_devices = 1 if mesh is None else mesh.size
    done: list[list[tuple[int, jax.Array]]] = [[] for _ in stacks]
    dealt = deals([x.shape for x in stacks], num_devices)
    for _, group in itertools.groupby(dealt, lambda deal: deal.rows):
        alike = list(group)
        whole = [_gathered(deal, stacks, num_devices) for deal in alike]
        if mesh is None or mesh.size == 1:
            whole = function(whole)
        else:
            whole = _on_all_devices(function, whole, mesh)
        for deal, x in zip(alike, whole, strict=True):
            at = 0
            for first, end, i in deal.pieces:
                _, rows, cols = stacks[i].shape
                done[i].append((first, x[at : at + end - first, :rows, :cols]))
                at += end - first
    return [
        jnp.concatenate([x for _, x in sorted(pieces, key=lambda piece: piece[0])])
        for pieces in done
    ]


def _gathered(deal: Deal, stacks: Sequence[jax.Array], num_devices: int) -> jax.Array:
    """The matrices of a deal [S, rows, cols]; S is a multiple of the number of devices."""
    parts = []
    for first, end, i in deal.pieces:
        x = stacks[i][first:end]
        parts.append(jnp.pad(x, ((0, 0), (0, deal.rows - x.shape[1]), (0, deal.cols - x.shape[2]))))
    x = jnp.concatenate(parts)
    return jnp.pad(x, ((0, deal.rounds * num_devices - len(x)), (0, 0), (0, 0)))


def _on_all_devices(
    function: Function, whole: list[jax.Array], mesh: Mesh | AbstractMesh
) -> list[jax.Array]:
    rows_axis = "fsdp" if whole[0].shape[1] % mesh.shape["fsdp"] == 0 else None
    divides = all(x.shape[2] % mesh.shape["tensor"] == 0 for x in whole)
    cols_axis = "tensor" if divides else None
    spec = P(None, rows_axis, cols_axis)
    several = [axis for axis in mesh.axis_names if mesh.shape[axis] > 1]
    cut = [(axis, at) for at, axis in ((1, rows_axis), (2, cols_axis)) if axis in several]
    alike = [axis for axis in several if axis not in (rows_axis, cols_axis)]

    def body(parts: list[jax.Array]) -> list[jax.Array]:
        """parts: this device's of every matrix."""

        def there(x: jax.Array) -> jax.Array:
            for axis in alike:
                count = len(x) // mesh.shape[axis]
                x = jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * count, count)
            for axis, at in cut:
                x = jax.lax.all_to_all(x, axis, split_axis=0, concat_axis=at, tiled=True)
            return x

        def back(x: jax.Array) -> jax.Array:
            for axis, at in reversed(cut):
                x = jax.lax.all_to_all(x, axis, split_axis=at, concat_axis=0, tiled=True)
            for axis in reversed(alike):
                x = jax.lax.all_gather(x, axis, tiled=True)
            return x

        return [back(x) for x in function([there(x) for x in parts])]

    whole = [jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec)) for x in whole]
    specs = [spec] * len(whole)
    return jax.shard_map(body, mesh=mesh, in_specs=(specs,), out_specs=specs, check_vma=False)(
        whole
    )
