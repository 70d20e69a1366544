"""The devices that a plan is for: how many, how they are joined, what each of them can hold."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import jax

from lightningdit_jax.parallel.chips import GPU_SHARE, Chip, chip_of

# What XLA takes of a TPU's memory for itself, as it says where a program does not fit.
_TPU_RESERVED = 2**28
# A process of the CPU needs memory beside its arrays: programs, batches read ahead, Python.
_CPU_RESERVED = 2 * 2**30
# Of a device that says nothing: the least that anybody would train on.
_UNKNOWN_BYTES = 8 * 2**30


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Devices of one kind.

    memory_bytes: what the arrays of a program may take on each of them. chip: what it can do, None
    for a kind that is not in the table. granules: TPU slices, or nodes of several devices, between
    which the network is slow. num_processes: that read a part of each batch.
    """

    devices: Sequence[jax.Device]
    memory_bytes: int
    chip: Chip | None
    granules: int
    num_processes: int

    @classmethod
    def of(cls, devices: Sequence[jax.Device]) -> "Hardware":
        """Of devices that are there or, compiling ahead of time, are not."""
        first, chip = devices[0], chip_of(devices[0])
        processes = {device.process_index for device in devices}
        slices = {getattr(device, "slice_index", 0) for device in devices}
        granules = 1 if first.platform == "cpu" else len(slices)
        return cls(
            list(devices), _memory_bytes(first, chip, len(devices)), chip, granules, len(processes)
        )

    @property
    def platform(self) -> str:
        """ "tpu", "gpu" or "cpu"."""
        return self.devices[0].platform

    @property
    def is_known(self) -> bool:
        """Whether its memory and speed are: of CPUs the memory alone matters."""
        return self.chip is not None or self.platform == "cpu"

    def __str__(self) -> str:
        return f"{len(self.devices)} x {self.devices[0].device_kind}"


def _memory_bytes(device: jax.Device, chip: Chip | None, num_devices: int) -> int:
    if device.platform == "cpu":  # its devices share the machine's
        return (_machine_bytes() - _CPU_RESERVED) // num_devices
    stats = _stats(device)
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    if chip is None:
        return _UNKNOWN_BYTES
    if device.platform == "tpu":
        return chip.hbm_bytes - _TPU_RESERVED
    return int(GPU_SHARE * chip.hbm_bytes)


def _stats(device: jax.Device) -> dict[str, int]:
    try:
        return device.memory_stats() or {}
    except jax.errors.JaxRuntimeError:  # of a device that is not there
        return {}


def _machine_bytes() -> int:
    """Of this machine, or of the part of it that this process may use."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = pathlib.Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return whole if text == "max" else min(whole, int(text))
