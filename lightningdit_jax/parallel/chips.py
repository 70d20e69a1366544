"""What the chips of accelerators can do, by public figures: TPUs and NVIDIA GPUs."""

import dataclasses
from collections.abc import Mapping

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a device has: bytes of memory, bfloat16 FLOP/s, bytes/s of its memory, clock in Hz.

    peak_flops: of dense products. A TPU chip is one device, but two on tpu7x; its clock is the one
    that reproduces the peak, as nothing publishes it. cores: that share a device's program.
    vmem_bytes: of a core's vector memory, what a kernel may take. compiler_options: of XLA, see
    docs/performance.md.
    """

    hbm_bytes: int
    peak_flops: float
    bandwidth: float
    clock: float
    compiler_options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cores: int = 1
    vmem_bytes: int = 48 * 2**20


# With its default, FSDP on v5e is estimated to take twice as long.
_WHOLE_PRODUCTS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "100000"}
# What a kernel may take of the vector memory, more than by default.
VMEM_LIMIT = "xla_tpu_scoped_vmem_limit_kib"
# What v5e does by itself: gather weights beside the products before.
_OVERLAP = {
    "xla_enable_async_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
    "xla_tpu_overlap_compute_collective_tc": "true",
}
_GIB = 2**30

# cloud.google.com/tpu/docs.
TPUS = {
    "v4": Chip(
        *(32 * _GIB, 275e12, 1.2e12, 1.05e9),
        _WHOLE_PRODUCTS | _OVERLAP,
        cores=2,
        vmem_bytes=16 * 2**20,
    ),
    "v5e": Chip(16 * _GIB, 197e12, 0.819e12, 1.5e9, _WHOLE_PRODUCTS | {VMEM_LIMIT: "65536"}),
    "v5p": Chip(
        *(95 * _GIB, 459e12, 2.765e12, 1.75e9),
        _WHOLE_PRODUCTS | _OVERLAP | {VMEM_LIMIT: "49152"},
        cores=2,
    ),
    "v6e": Chip(
        *(32 * _GIB, 918e12, 1.638e12, 1.75e9),
        _WHOLE_PRODUCTS | _OVERLAP | {VMEM_LIMIT: "65536"},
    ),
    "tpu7x": Chip(96 * _GIB, 1153.5e12, 3.69e12, 2.2e9, _WHOLE_PRODUCTS),
}

# NVIDIA's data sheets, SXM where there is a choice; the clock is the highest. Memory is what CUDA
# has of it: openxla/xla, xla/backends/gpu/target_config/specs, for H100, H200 and A100; of L4 and
# A10G what error correction (a sixteenth) and the driver leave.
GPUS = {
    "h100": Chip(84_942_979_072, 989.4e12, 3.352e12, 1.98e9),
    "h200": Chip(151_397_597_184, 989.4e12, 4.8e12, 1.98e9),
    "a100": Chip(85_100_068_864, 312e12, 2.039e12, 1.41e9),
    "l4": Chip(22 * _GIB, 121e12, 0.3e12, 2.04e9),
    "a10g": Chip(22 * _GIB, 70e12, 0.6e12, 1.71e9),
    "rtx4090": Chip(int(23.6 * _GIB), 165.2e12, 1.008e12, 2.52e9),
}

CHIPS = TPUS | GPUS

# Of a GPU's memory, what a command lets JAX allocate; the rest is for the driver and the libraries.
GPU_SHARE = 0.92

# jax.Device.device_kind, of chips that are there and of those that are not. Cut GPUs (MIG) and
# PCIe cards are other devices, of other kinds.
_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU7x": "tpu7x",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA A100-SXM4-80GB": "a100",
    "NVIDIA L4": "l4",
    "NVIDIA A10G": "a10g",
    "NVIDIA GeForce RTX 4090": "rtx4090",
}


def chip_name(device: jax.Device) -> str | None:
    """The name in CHIPS of what a device is, if it is there."""
    return _KINDS.get(device.device_kind)


def chip_of(device: jax.Device) -> Chip | None:
    """The chip that a device is, if it is one of CHIPS."""
    name = chip_name(device)
    return CHIPS[name] if name else None


def has_float8(device: jax.Device) -> bool:
    """Whether it has float8 products of its own: NVIDIA GPUs from Ada and Hopper on, and tpu7x."""
    if "NVIDIA" in device.device_kind:
        return float(device.compute_capability) >= 8.9
    return chip_name(device) == "tpu7x"
