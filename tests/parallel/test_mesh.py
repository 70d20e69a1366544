import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from lightningdit_jax.parallel.mesh import batch_sharding, check_batch_size, make_mesh, replicated


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (8, 1, 1)),
        ({"data": 1, "fsdp": -1}, (1, 8, 1)),
        ({"data": 2, "fsdp": 2, "tensor": -1}, (2, 2, 2)),
        ({"data": 2, "fsdp": 4, "tensor": 1}, (2, 4, 1)),
        ({"data": -1, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
    ],
)
def test_sizes(sizes, shape):
    mesh = make_mesh(**sizes)
    assert mesh.devices.shape == shape
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert {device.id for device in mesh.devices.flat} == set(range(8))


def test_some_of_the_devices():
    mesh = make_mesh(devices=jax.devices()[:2])
    assert mesh.devices.shape == (2, 1, 1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((-1, -1, 1), r"mesh.data=-1, mesh.fsdp=-1, mesh.tensor=1: .*at most one"),
        ((0, 1, 1), r"mesh.data=0.*positive"),
        ((-1, 3, 1), r"8 devices cannot be divided by 3"),
        ((2, 2, 1), r"product is 4, but there are 8 devices"),
        ((4, 2, 2), r"product is 16, but there are 8 devices"),
    ],
)
def test_bad_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(*sizes)


def test_batch_is_cut_over_data_and_fsdp():
    mesh = make_mesh(2, 2, 2)
    x = jax.device_put(jnp.arange(8), batch_sharding(mesh))
    rows = {tuple(np.asarray(shard.data)) for shard in x.addressable_shards}
    assert rows == {(0, 1), (2, 3), (4, 5), (6, 7)}
    whole = jax.device_put(jnp.arange(8), replicated(mesh))
    assert whole.sharding.is_fully_replicated


def test_batch_size():
    mesh = make_mesh(2, 2, 2)
    check_batch_size(16, mesh, 2)
    with pytest.raises(
        ValueError, match=r"batch size 10 .* 4 batch shards .*valid sizes: 8 and 12"
    ):
        check_batch_size(10, mesh, 2)
    with pytest.raises(ValueError, match=r"batch size 3 .*valid sizes: 4$"):
        check_batch_size(3, mesh, 1)
    with pytest.raises(ValueError, match=r"batch size 0 "):
        check_batch_size(0, mesh, 1)
    with pytest.raises(ValueError, match=r"4 batch shards .*8 processes.*lower mesh.tensor"):
        check_batch_size(16, mesh, 8)


@dataclasses.dataclass(frozen=True)
class StandIn:
    """A device as a slice, or a process without slices, would have it."""

    id: int
    process_index: int
    slice_index: int = 0
    platform: str = "tpu"
    device_kind: str = "stand-in"
    core_on_chip: int = 0

    @property
    def coords(self):
        """On a slice of 4 x 2 chips."""
        return (self.id % 4, self.id % 8 // 4, 0)


def two_slices():
    """Two slices of four processes with two devices each, in an order that mixes them."""
    devices = [StandIn(i, process_index=i // 2, slice_index=i // 8) for i in range(16)]
    return devices[1::2] + devices[::2]


def four_nodes():
    """As GPU nodes: no slices, four devices a process."""
    return [StandIn(i, process_index=i // 4, platform="gpu") for i in range(16)]


@pytest.mark.parametrize(
    ("devices", "dcn_data", "sizes"),
    [
        (two_slices(), 2, (2, 8, 1)),
        (two_slices(), 2, (4, 2, 2)),
        (two_slices(), 2, (-1, 4, 1)),
        (four_nodes(), 4, (4, 4, 1)),
        (four_nodes(), 4, (8, 1, 2)),
    ],
)
def test_data_alone_spans_slices_or_nodes(devices, dcn_data, sizes):
    mesh = make_mesh(*sizes, dcn_data, devices=devices)
    data = mesh.devices.shape[0]
    assert mesh.size == 16 and {d.id for d in mesh.devices.flat} == set(range(16))
    of = "slice_index" if dcn_data == 2 else "process_index"
    blocks = mesh.devices.reshape(dcn_data, data // dcn_data, *mesh.devices.shape[1:])
    groups = [{getattr(device, of) for device in block.flat} for block in blocks]
    assert groups == [{i} for i in range(dcn_data)]


@pytest.mark.parametrize(
    ("devices", "arguments", "message"),
    [
        (two_slices(), (-1, 8, 1), r"in 2 TPU slices; set mesh.dcn_data=2"),
        (four_nodes(), (-1, 4, 1, 2), r"dcn_data=2, but the devices are in 4 processes"),
        (two_slices(), (1, 16, 1, 2), r"mesh.data=1 cannot be divided by mesh.dcn_data=2"),
        (four_nodes(), (2, 8, 1, 4), r"mesh.data=2 cannot be divided by mesh.dcn_data=4"),
    ],
)
def test_sizes_that_do_not_fit_slices_are_refused(devices, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(*arguments, devices=devices)
