"""NVIDIA GPUs that are not there: how many stand together, and what their compiler has to know."""

import dataclasses
import math
import os
from collections.abc import Sequence

import jax

from lightningdit_jax.parallel.chips import GPUS

PER_NODE = 8
_LARGEST = 1024


@dataclasses.dataclass(frozen=True)
class Processor:
    """What XLA chooses kernels by, beside a Chip. kind: as jax.Device.device_kind.

    capability: compute capability. cores: streaming multiprocessors; units: float32 units of each;
    threads, shared_memory: the most of a core, shared_memory_of_block: of a block that asks for it,
    bytes. cache: level 2, bytes.
    """

    kind: str
    capability: tuple[int, int]
    cores: int
    units: int
    threads: int
    shared_memory: int
    shared_memory_of_block: int
    cache: int


_KIB, _MIB = 2**10, 2**20
# CUDA C++ programming guide, technical specifications per compute capability; cores and caches from
# NVIDIA's white papers (Hopper, Ampere GA100 and GA102, Ada). They are those of openxla/xla,
# xla/backends/gpu/target_config/specs, where that has the card.
PROCESSORS = {
    "h100": Processor(
        *("NVIDIA H100 80GB HBM3", (9, 0), 132, 128), *(2048, 228 * _KIB, 227 * _KIB, 50 * _MIB)
    ),
    "h200": Processor(
        *("NVIDIA H200", (9, 0), 132, 128), *(2048, 228 * _KIB, 227 * _KIB, 50 * _MIB)
    ),
    "a100": Processor(
        *("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64), *(2048, 164 * _KIB, 163 * _KIB, 40 * _MIB)
    ),
    "l4": Processor(*("NVIDIA L4", (8, 9), 58, 128), *(1536, 100 * _KIB, 99 * _KIB, 48 * _MIB)),
    "a10g": Processor(*("NVIDIA A10G", (8, 6), 80, 128), *(1536, 100 * _KIB, 99 * _KIB, 6 * _MIB)),
    "rtx4090": Processor(
        *("NVIDIA GeForce RTX 4090", (8, 9), 128, 128),
        *(1536, 100 * _KIB, 99 * _KIB, 72 * _MIB),
    ),
}
# Whose nodes are joined by a network of their own.
_WITH_NODES = ("h100", "h200", "a100")


def gpu_count(topology: str) -> tuple[str, int]:
    """Chip and number of a name such as "h100:8": 1, 2, 4 or 8 of a node, or whole nodes of 8.

    Raises ValueError for a number that does not exist, naming the nearest.
    """
    chip, _, number = topology.partition(":")
    if not (number.isascii() and number.isdigit() and 0 < len(number) < 8):
        raise ValueError(
            f"--topology={topology} is no number of GPUs; expected a card and how many, such as "
            f"{chip}:1 or {chip}:{PER_NODE}"
        )
    known = [1, 2, 4, PER_NODE]
    if chip in _WITH_NODES:
        known += range(2 * PER_NODE, _LARGEST + 1, PER_NODE)
    if int(number) not in known:
        nearest = min(known, key=lambda count: abs(math.log(count / max(1, int(number)))))
        nodes = f", or whole nodes of {PER_NODE} up to {_LARGEST:,}" if chip in _WITH_NODES else ""
        raise ValueError(
            f"--topology={topology} does not exist: {chip} comes in 1, 2, 4 and {PER_NODE} of a "
            f"node{nodes}; the nearest is {chip}:{nearest}"
        )
    return chip, int(number)


def prepare_for_gpus() -> None:
    """Has JAX load its plugin for CUDA without a driver, if it is not loaded yet."""
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")


def open_gpus(chip: str, number: int) -> Sequence[jax.Device]:
    """Devices of GPUs that need not be there, to compile for.

    Needs JAX's plugin for CUDA (the extra `cuda`), no driver and no card. Raises ImportError
    without it, ValueError where it cannot describe them.
    """
    from jax.experimental import topologies

    prepare_for_gpus()
    per_node = min(number, PER_NODE)
    try:
        return topologies.get_topology_desc(
            platform="cuda",
            target_config=target_config(chip),
            topology=f"{number // per_node}x1x{per_node}",
        ).devices
    except NotImplementedError as error:
        raise ImportError(
            "compiling for absent GPUs needs JAX's plugin for CUDA: "
            "pip install -c constraints.txt -e '.[cuda]'"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"--topology={chip}:{number} cannot be described: {str(error).splitlines()[0]}"
        ) from error


def target_config(chip: str) -> str:
    """A card in the words of XLA's stream_executor.GpuTargetConfigProto, as text."""
    card, what = GPUS[chip], PROCESSORS[chip]
    major, minor = what.capability
    extension = "ACCELERATED_FEATURES" if major >= 9 else "NONE"
    fields = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": what.threads,
        "registers_per_block_limit": 65536,
        "registers_per_core_limit": 65536,
        "shared_memory_per_block": 48 * _KIB,
        "shared_memory_per_block_optin": what.shared_memory_of_block,
        "shared_memory_per_core": what.shared_memory,
        "core_count": what.cores,
        "fpus_per_core": what.units,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "thread_dim_limit_x": 1024,
        "thread_dim_limit_y": 1024,
        "thread_dim_limit_z": 64,
        "memory_bandwidth": int(card.bandwidth),
        "device_memory_size": card.hbm_bytes,
        "l2_cache_size": what.cache,
        "clock_rate_ghz": card.clock / 1e9,
    }
    info = "\n".join(f"  {name}: {value}" for name, value in fields.items())
    return f"""gpu_device_info {{
{info}
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}
  name: "{what.kind}"
  {_VERSIONS}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{what.kind}"
"""


# Of the driver and of the libraries, as plugins for CUDA 13 need them at least.
_VERSIONS = """driver_version: "13.0.0"
  runtime_version: "13.0.0"
  dnn_version: "9.10.0\""""
