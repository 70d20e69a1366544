"""Functions of batches, as a mesh runs them."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh

from lightningdit_jax.parallel.mesh import batch_sharding
from lightningdit_jax.parallel.topology import compiler_options


def jit_batches(function: Callable, mesh: Mesh) -> Callable:
    """jax.jit with the options of the mesh's devices.

    Every array that function returns is cut over the mesh by its leading axis, the batch.
    """
    return jax.jit(
        function, out_shardings=batch_sharding(mesh), compiler_options=compiler_options(mesh)
    )
