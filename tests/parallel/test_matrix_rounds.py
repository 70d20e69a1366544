"""Matrices dealt out to devices: all of them once, the same results, and no stack gathered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lightningdit_jax.parallel.collectives import collectives_of
from lightningdit_jax.parallel.hlo_text import Module
from lightningdit_jax.parallel.matrix_rounds import deals, map_matrices
from lightningdit_jax.parallel.mesh import make_mesh

SHAPES = [(5, 8, 8), (12, 8, 24), (1, 6, 8)]


def cubed(stacks):
    """Of each matrix by itself; the order of rows and of columns does not matter."""
    return [jnp.einsum("sij,skj,skl->sil", x, x, x) for x in stacks]


def test_each_matrix_is_dealt_once_and_rounds_are_full():
    """Of XL's modulation, w12, qkv, w3 and proj, 28 each, on 16 devices."""
    widths = [6912, 6144, 3456, 3072, 1152]
    shapes = [(28, 1152, width) for width in widths]
    found = deals(shapes, 16)
    dealt = [(i, at) for deal in found for first, end, i in deal.pieces for at in range(first, end)]
    assert sorted(dealt) == [(i, at) for i in range(5) for at in range(28)]
    assert sum(deal.rounds for deal in found) == 9  # 140 of 144 places
    # The largest first, each round as wide as its widest.
    assert [deal.cols for deal in found] == sorted(widths, reverse=True)
    assert [deal.rounds for deal in found] == [2, 2, 2, 1, 2]
    for deal in found:
        assert all(shapes[i][2] <= deal.cols for _, _, i in deal.pieces)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_results_are_those_of_one_device_and_no_stack_is_gathered(sizes):
    mesh, rng = make_mesh(*sizes), np.random.default_rng(0)
    stacks = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    cut = [NamedSharding(mesh, spec) for spec in (P(None, "fsdp"), P(None, "fsdp", "tensor"), P())]
    run = jax.jit(lambda x: map_matrices(cubed, x, mesh), in_shardings=(cut,), out_shardings=cut)
    program = run.lower(stacks).compile()
    for found, wanted in zip(program(jax.device_put(stacks, cut)), cubed(stacks), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    module = Module.parse(program.as_text())
    seen = [
        found.collective
        for instructions in module.computations.values()
        for instruction in instructions
        for found in collectives_of(module, instruction)
    ]
    gathered = [c.whole_bytes for c in seen if c.kind == "all-gather"]
    if sizes == (1, 8, 1):  # but for the matrix that every device has whole
        assert sum(c.kind == "all-to-all" for c in seen) >= 2
        assert max(gathered, default=0) <= 4 * 8 * 8
    if sizes == (2, 2, 2):  # over "data" alone, where each device has what it is to have
        assert max(gathered) <= 4 * 16 * 8 * 24 / 4
