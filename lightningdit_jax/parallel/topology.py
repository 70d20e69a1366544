"""TPU slices that are not there: their devices for compiling, and what their chips can do."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from lightningdit_jax.parallel.links import LINKS, Links, Network
from lightningdit_jax.parallel.slice_shapes import slice_shape


@dataclasses.dataclass(frozen=True)
class Chip:
    """hbm_bytes and peak bfloat16 FLOP/s per device (cloud.google.com/tpu/docs), clock in Hz.

    A chip is one device, but two on tpu7x. The clock is the one that reproduces the peak; nothing
    publishes it. compiler_options: of XLA, see docs/performance.md.
    """

    hbm_bytes: int
    peak_flops: float
    clock: float
    compiler_options: Mapping[str, str]


# With its default, FSDP on v5e is estimated to take twice as long.
_WHOLE_PRODUCTS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "100000"}
# What a kernel may take of the vector memory, more than by default.
_VMEM_LIMIT = "xla_tpu_scoped_vmem_limit_kib"
# What v5e does by itself: gather weights beside the products before.
_OVERLAP = {
    "xla_enable_async_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
    "xla_tpu_overlap_compute_collective_tc": "true",
}

CHIPS = {
    "v4": Chip(32 * 2**30, 275e12, 1.05e9, _WHOLE_PRODUCTS | _OVERLAP),
    "v5e": Chip(16 * 2**30, 197e12, 1.5e9, _WHOLE_PRODUCTS | {_VMEM_LIMIT: "65536"}),
    "v5p": Chip(95 * 2**30, 459e12, 1.75e9, _WHOLE_PRODUCTS | _OVERLAP | {_VMEM_LIMIT: "49152"}),
    "v6e": Chip(32 * 2**30, 918e12, 1.75e9, _WHOLE_PRODUCTS | _OVERLAP | {_VMEM_LIMIT: "65536"}),
    "tpu7x": Chip(96 * 2**30, 1153.5e12, 2.2e9, _WHOLE_PRODUCTS),
}


# jax.Device.device_kind, of chips that are there and of those that are not.
_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU7x": "tpu7x",
}


def chip_of(device: jax.Device) -> Chip | None:
    """The TPU chip that a device is, if it is one of CHIPS."""
    return CHIPS.get(_KINDS.get(device.device_kind))


# Two products at once, each on all cores, take longer than one after the other; attention as one
# kernel takes several times as long as its products and a softmax.
_CPU_OPTIONS = {
    "xla_cpu_enable_concurrency_optimized_scheduler": False,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
}


def compiler_options(mesh: Mesh) -> dict[str, str | bool] | None:
    """The options of jax.jit that suit the devices of a mesh; None where none are known."""
    device = mesh.devices.flat[0]
    if device.platform == "cpu":
        return dict(_CPU_OPTIONS)
    chip = chip_of(device)
    return dict(chip.compiler_options) if chip else None


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice that need not be there: its name, what its chips and links can do, its devices.

    sides: chips along each.
    """

    name: str
    chip: Chip
    links: Links
    sides: tuple[int, ...]
    devices: Sequence[jax.Device]

    def network(self, mesh: Mesh) -> Network:
        """What joins the devices of a mesh of this slice."""
        return Network.of_devices(self.links, self.sides, list(mesh.devices.flat))

    def __str__(self) -> str:
        return f"{len(self.devices)} x {self.devices[0].device_kind}"


def open_slice(topology: str) -> Slice:
    """The slice of a name such as "v5e:4x4" or "v4:2x2x4".

    Needs libtpu (the extra `tpu`), on a machine without TPUs, and one process at a time. Raises
    ValueError for an unknown chip or a slice that does not exist, before libtpu is asked, and where
    another process uses libtpu; ImportError without it.
    """
    name, shape = slice_shape(topology)
    try:
        import libtpu  # noqa: F401  (JAX finds it by itself, but says less when it is missing)
    except ImportError as error:
        raise ImportError(
            "compiling for absent TPUs needs libtpu: pip install -c constraints.txt -e '.[tpu]'"
        ) from error
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server to ask
    options: dict[str, Any] = {"chip_config_name": "megacore"} if name == "v4" else {}
    if math.prod(shape) == 1:  # a part of a host: libtpu would look for the rest of it
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        )
    except Exception as error:
        raise ValueError(
            f"--topology={topology} cannot be described, as where another process uses libtpu: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return Slice(topology, CHIPS[name], LINKS[name], shape, description.devices)
