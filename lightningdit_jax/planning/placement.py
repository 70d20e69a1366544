"""A run's state and batch on a mesh: what each device holds, and what travels between them."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax

from lightningdit_jax.parallel.mesh import abstract_mesh, num_batch_shards
from lightningdit_jax.parallel.sharding import Rules, abstract_on_mesh
from lightningdit_jax.planning.hardware import Hardware
from lightningdit_jax.planning.memory import held_bytes
from lightningdit_jax.planning.speed import Speed


@dataclasses.dataclass(frozen=True)
class Placement:
    """sizes: of the mesh. images, state_bytes, param_bytes: of each device.

    weight_bytes: of all parameters, as they travel.
    """

    hardware: Hardware
    sizes: Mapping[str, int]
    images: float
    state_bytes: int
    param_bytes: int
    weight_bytes: int

    @functools.cached_property
    def communication(self) -> float:
        """Exposed seconds of a part of a step."""
        return Speed(self.hardware).communication(self.sizes, self.weight_bytes)


def place(
    state: Any,
    rules: Rules,
    batch_size: int,
    hardware: Hardware,
    sizes: Mapping[str, int],
    item_bytes: int,
) -> Placement:
    """An abstract TrainState and a global batch on a mesh of some sizes.

    item_bytes: of a weight as it travels. Raises ValueError where the mesh does not divide the
    arrays.
    """
    mesh, platform = abstract_mesh(sizes), hardware.platform
    cut = abstract_on_mesh(state, mesh, rules)
    num_params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    return Placement(
        hardware=hardware,
        sizes=sizes,
        images=batch_size / num_batch_shards(mesh),
        state_bytes=held_bytes(cut, platform),
        param_bytes=held_bytes(cut.params, platform),
        weight_bytes=num_params * item_bytes,
    )
