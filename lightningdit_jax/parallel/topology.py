"""Accelerators that are not there, as devices to compile for; options for devices of all kinds."""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from lightningdit_jax.parallel.chips import GPUS, TPUS, VMEM_LIMIT, Chip, chip_of
from lightningdit_jax.parallel.gpus import gpu_count, open_gpus, prepare_for_gpus
from lightningdit_jax.parallel.slice_shapes import slice_shape

# Two products at once, each on all cores, take longer than one after the other; attention as one
# kernel takes several times as long as its products and a softmax. The library's sums over many
# pixels or tokens take a fraction of the time of XLA's own, its convolutions take longer.
_CPU_OPTIONS = {
    "xla_cpu_enable_concurrency_optimized_scheduler": False,
    "xla_cpu_experimental_ynn_fusion_type": ",".join(
        ("LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT", "LIBRARY_FUSION_TYPE_REDUCE")
    ),
}

# XLA's own products are made before it looks for float8 ones: the library's are found nowhere then,
# and numbers that go to float8 and back stay as they were.
_GPU_FLOAT8_OPTIONS = {"xla_gpu_enable_triton_gemm": False}


def compiler_options(
    mesh: Mesh, effort: Literal["full", "quick"] = "full", *, float8: bool = False
) -> dict[str, str | bool | float] | None:
    """The options of jax.jit that suit the devices of a mesh; None where none are known.

    effort "quick": for TPUs small kernels, the first that fit. They compile in a fraction of the
    time and are estimated to take up to 3.6 times as long (docs/tokenizer_step.md). float8: of a
    program with float8 products (models.float8).
    """
    device = mesh.devices.flat[0]
    if device.platform == "cpu":
        return dict(_CPU_OPTIONS)
    if float8 and device.platform == "gpu":
        return dict(_GPU_FLOAT8_OPTIONS)
    chip = chip_of(device)
    if chip is None:
        return None
    options: dict[str, str | bool | float] = dict(chip.compiler_options)
    if effort == "quick" and device.platform == "tpu":
        options.pop(VMEM_LIMIT, None)  # the code of a kernel grows with the pixels it holds
        options["exec_time_optimization_effort"] = -1.0
    return options or None


@dataclasses.dataclass(frozen=True)
class Slice:
    """TPUs or GPUs that need not be there: name, what chips can do, the devices."""

    name: str
    chip: Chip
    devices: Sequence[jax.Device]

    @property
    def is_gpu(self) -> bool:
        """Whether it is of GPUs."""
        return self.devices[0].platform == "gpu"

    def __str__(self) -> str:
        return f"{len(self.devices)} x {self.devices[0].device_kind}"


def check_topology(topology: str) -> None:
    """Has to come before anything is computed: JAX loads what compiles for GPUs only then.

    Raises ValueError for an unknown chip or what does not exist of it.
    """
    if topology.partition(":")[0] in GPUS:
        gpu_count(topology)
        prepare_for_gpus()
    else:
        slice_shape(topology)


def open_slice(topology: str) -> Slice:
    """The TPU slice of a name such as "v5e:4x4" or "v4:2x2x4", or GPUs such as "h100:8".

    Needs libtpu (the extra `tpu`), on a machine without TPUs, and one process at a time; for GPUs
    JAX's plugin for CUDA (the extra `cuda`). Raises ValueError for an unknown chip or what does not
    exist of it, before a compiler is asked, and where another process uses libtpu; ImportError
    without the extra.
    """
    if topology.partition(":")[0] in GPUS:
        chip, number = gpu_count(topology)
        return Slice(topology, GPUS[chip], open_gpus(chip, number))
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
    return Slice(topology, TPUS[name], description.devices)
