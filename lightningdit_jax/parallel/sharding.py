"""Where parameters and activations lie on the mesh, by ordered tables of (path pattern, spec).

The same table serves parameters, EMA and optimizer moments, since their paths end in the
parameter's path.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lightningdit_jax.parallel.mesh import BATCH_AXES
from lightningdit_jax.tree_paths import map_named

Rules = Sequence[tuple[str, P]]

# A tensor below this many elements is replicated where "fsdp" does not divide it: it costs nothing.
SMALL = 2**16


def _spec(path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh, rules: Rules) -> P:
    """First spec whose pattern is found in the path, checked against the shape."""
    if not shape:
        return P()
    spec = next((spec for pattern, spec in rules if re.search(pattern, path)), None)
    if spec is None:
        raise ValueError(
            f"no sharding rule matches {path!r} (shape {shape}); add its pattern to the table"
        )
    if len(spec) > len(shape):
        raise ValueError(f"{path!r} has shape {shape}, but its sharding rule expects {spec}")
    axes = []
    for size, axis in zip(shape, spec):
        parts = 1 if axis is None else mesh.shape[axis]
        if size % parts == 0:
            axes.append(axis)
        elif axis == "fsdp" and math.prod(shape) < SMALL:
            axes.append(None)
        else:
            raise ValueError(
                f"{path!r} has shape {shape}: its axis of size {size} cannot be divided by "
                f"mesh.{axis}={parts}; choose a mesh.{axis} that divides {size}"
            )
    return P(*axes)


def tree_shardings(tree: Any, mesh: Mesh | AbstractMesh, rules: Rules) -> Any:
    """Sharding of every leaf: a tree of arrays or ShapeDtypeStructs -> the same of NamedShardings.

    A leaf's path is its keys joined by "/" (dict keys, sequence indices, field names); the first
    pattern of the table found in it decides. Scalars are replicated. A leaf of fewer than 2**16
    elements that "fsdp" does not divide is not cut along "fsdp".
    Raises ValueError naming the path if no pattern matches, or if a mesh axis does not divide the
    axis it should cut.
    """

    def leaf_sharding(name, leaf):
        return NamedSharding(mesh, _spec(name, tuple(leaf.shape), mesh, rules))

    return map_named(leaf_sharding, tree)


def abstract_on_mesh(tree: Any, mesh: Mesh | AbstractMesh, rules: Rules) -> Any:
    """ShapeDtypeStructs with the sharding that the table gives each leaf. Raises as tree_shardings.

    tree: of arrays or ShapeDtypeStructs.
    """
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        tree_shardings(tree, mesh, rules),
    )


@dataclasses.dataclass(frozen=True)
class TokenConstraint:
    """Pins activations [B, ...] to the batch shards of `mesh`; hashable, so a model can hold it.

    Without it XLA may shard activations over "fsdp" along the width, like the kernels, and
    gather activations instead of parameters.
    """

    mesh: Mesh

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, N, D] -> the same, sharded over the batch."""
        x = jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, P(BATCH_AXES)))
        if self.mesh.devices.flat[0].platform == "gpu":
            # By itself JAX 0.10 gathers what it constrains from all devices.
            split = P(BATCH_AXES)
            x = jax.shard_map(_row_by_row, mesh=self.mesh, in_specs=split, out_specs=split)(x)
        return x


def _row_by_row(x: jax.Array) -> jax.Array:
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


@dataclasses.dataclass(frozen=True)
class HeadsShard:
    """Runs a kernel on each device's images and heads: XLA cannot cut what it does not know."""

    mesh: Mesh

    def __call__(
        self,
        kernel: Callable[..., Any],
        in_axes: tuple[tuple[str | None, ...], ...],
        out_axes: tuple[tuple[str | None, ...], ...],
    ) -> Callable[..., Any]:
        """The kernel on whole arrays, of whose axes "images" and "heads" are cut."""
        cuts = {"images": BATCH_AXES, "heads": "tensor", None: None}
        in_specs, out_specs = (
            tuple(P(*(cuts[axis] for axis in axes)) for axes in arrays)
            for arrays in (in_axes, out_axes)
        )
        return jax.shard_map(
            kernel, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )


def constrain_tokens(mesh: Mesh) -> TokenConstraint:
    """The model's injected `constrain(x)` for this mesh."""
    return TokenConstraint(mesh)
