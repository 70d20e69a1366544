"""What a step is compiled with, by device and effort."""

import types

import numpy as np
import pytest

from lightningdit_jax.parallel.chips import CHIPS
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.topology import compiler_options

VMEM_LIMIT, EFFORT = "xla_tpu_scoped_vmem_limit_kib", "exec_time_optimization_effort"


def mesh_of(kind):
    """A mesh of one device that is not there."""
    device = types.SimpleNamespace(platform="tpu", device_kind=kind)
    return types.SimpleNamespace(devices=np.array([[[device]]], dtype=object))


@pytest.mark.parametrize(("kind", "chip"), [("TPU v5 lite", "v5e"), ("TPU v4", "v4")])
def test_quick_asks_for_less_effort_and_leaves_the_chips_own_options(kind, chip):
    full = compiler_options(mesh_of(kind))
    assert full == CHIPS[chip].compiler_options and EFFORT not in full
    quick = compiler_options(mesh_of(kind), "quick")
    assert quick.pop(EFFORT) < 0
    assert quick == {name: value for name, value in full.items() if name != VMEM_LIMIT}
    assert compiler_options(mesh_of(kind)) == full  # the table is left as it was


def test_effort_is_of_known_tpus_alone():
    assert compiler_options(make_mesh(), "quick") == compiler_options(make_mesh())
    assert compiler_options(mesh_of("TPU v9"), "quick") is None
