"""The device mesh and where a batch lies on it."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # FSDP shards the batch as well as the parameters


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    dcn_data: int = 1,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Mesh of all devices (or the given ones) with the axes ("data", "fsdp", "tensor").

    One size may be -1 and takes what the others leave. dcn_data: number of TPU slices, or elsewhere
    of processes, that "data" spans; "fsdp" and "tensor" then stay within one, on its fast network.
    Raises ValueError if the sizes do not multiply to the number of devices, or dcn_data is not the
    number of slices or processes.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = mesh_sizes(data, fsdp, tensor, len(devices))
    array = _arrange(tuple(sizes.values()), dcn_data, devices)
    return Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_sizes(data: int, fsdp: int, tensor: int, num_devices: int) -> dict[str, int]:
    """Sizes of all axes, by name, where one of them may be -1 and takes what is left.

    Raises ValueError if they do not multiply to the number of devices.
    """
    sizes = dict(zip(AXES, (data, fsdp, tensor)))
    shape = ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
    unknown = [axis for axis, size in sizes.items() if size == -1]
    if len(unknown) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ValueError(f"{shape}: expected positive sizes, at most one of them -1")
    known = math.prod(size for size in sizes.values() if size != -1)
    if unknown:
        if num_devices % known:
            raise ValueError(
                f"{shape}: {num_devices} devices cannot be divided by {known}; choose sizes whose "
                "product divides the number of devices"
            )
        sizes[unknown[0]] = num_devices // known
    elif known != num_devices:
        raise ValueError(
            f"{shape}: the product is {known}, but there are {num_devices} devices; set one size "
            "to -1 to take what is left"
        )
    return sizes


def abstract_mesh(sizes: Mapping[str, int]) -> AbstractMesh:
    """A mesh of these sizes by axis, without devices: enough to cut shapes."""
    return AbstractMesh(tuple(sizes[axis] for axis in AXES), AXES)


def _arrange(shape: tuple[int, int, int], dcn_data: int, devices: list[jax.Device]) -> np.ndarray:
    """Devices in the mesh's shape, neighbors of the later axes near each other."""
    num_slices = len({getattr(device, "slice_index", 0) for device in devices})
    num_processes = len({device.process_index for device in devices})
    if devices[0].platform == "tpu" and dcn_data != num_slices:
        raise ValueError(
            f"mesh.dcn_data={dcn_data}, but the devices are in {num_slices} TPU slices; set "
            f"mesh.dcn_data={num_slices}"
        )
    if dcn_data == 1:
        return mesh_utils.create_device_mesh(
            shape, np.asarray(devices), allow_split_physical_axes=True
        )
    if dcn_data not in (num_slices, num_processes):
        raise ValueError(
            f"mesh.dcn_data={dcn_data}, but the devices are in {num_processes} processes; expected "
            "this number, or 1"
        )
    data, fsdp, tensor = shape
    if data % dcn_data:
        raise ValueError(
            f"mesh.data={data} cannot be divided by mesh.dcn_data={dcn_data}; choose mesh.fsdp and "
            "mesh.tensor that fit within one slice or node"
        )
    return mesh_utils.create_hybrid_device_mesh(
        (data // dcn_data, fsdp, tensor),
        (dcn_data, 1, 1),
        devices,
        process_is_granule=dcn_data != num_slices,
        allow_split_physical_axes=True,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of anything whose leading axis is the batch: over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def num_batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """Number of parts that the batch is cut into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(
    global_batch: int, mesh: Mesh | AbstractMesh, process_count: int, accumulate_steps: int = 1
) -> None:
    """Raise ValueError unless the batch divides evenly among batch shards and processes.

    Every process loads its own part of the batch, so the number of batch shards must be a multiple
    of the number of processes too: "tensor" may not reach across processes. With accumulate_steps
    every shard is cut into so many parts.
    """
    data, fsdp, shards = mesh.shape["data"], mesh.shape["fsdp"], num_batch_shards(mesh)
    if shards % process_count:
        raise ValueError(
            f"the mesh has {shards} batch shards (data={data} x fsdp={fsdp}) for {process_count} "
            "processes, which load a part of the batch each; expected a multiple of the number of "
            f"processes: lower mesh.tensor (now {mesh.shape['tensor']})"
        )
    parts = shards * accumulate_steps
    if global_batch < 1 or global_batch % parts:
        below = global_batch // parts * parts
        nearest = [str(size) for size in (below, below + parts) if size > 0]
        times = f" of {accumulate_steps} accumulated parts each" if accumulate_steps > 1 else ""
        raise ValueError(
            f"batch size {global_batch} cannot be divided among {shards} batch shards{times} "
            f"(data={data} x fsdp={fsdp}, {process_count} processes); nearest valid sizes: "
            f"{' and '.join(nearest)}"
        )
