"""What a program compiled for a GPU costs, read from its optimized HLO text.

XLA gives no estimate there. What a kernel computes and moves is in the text; at the chip's peak and
bandwidth that is a time which it can come near, but not beat.
"""

import collections
import dataclasses
from collections.abc import Callable

from lightningdit_jax.parallel.chips import Chip
from lightningdit_jax.parallel.hlo_text import Instruction, Module
from lightningdit_jax.parallel.kernel_sources import Sources
from lightningdit_jax.parallel.kernels import kernel_of
from lightningdit_jax.parallel.program_totals import MOVEMENT, OTHER, Counts, Totals, program_totals


def _amounts() -> dict[str, float]:
    return collections.defaultdict(float)


@dataclasses.dataclass
class GpuCost(Totals):
    """Totals with kernels.

    kernels, flops, bytes, seconds: of the kernels of each kind (see Kernel). library_calls: how
    many of each. passes: seconds of the kernels that are no products, by the part of the model that
    they come from.
    """

    kernels: Counts = dataclasses.field(default_factory=collections.Counter)
    flops: dict[str, float] = dataclasses.field(default_factory=_amounts)
    bytes: dict[str, float] = dataclasses.field(default_factory=_amounts)
    seconds: dict[str, float] = dataclasses.field(default_factory=_amounts)
    library_calls: Counts = dataclasses.field(default_factory=collections.Counter)
    passes: dict[str, float] = dataclasses.field(default_factory=_amounts)


def gpu_cost(module: Module, chip: Chip, sources: Sources) -> GpuCost:
    """Cost of a program on a chip, loops counted as often as they run."""

    def count(total: GpuCost, instruction: Instruction, of: Callable[[str], GpuCost]) -> None:
        kernel = kernel_of(module, instruction)
        if kernel is None:
            return
        seconds = kernel.seconds(chip)
        total.matmul_flops += kernel.flops
        total.kernels[kernel.kind] += 1
        total.flops[kernel.kind] += kernel.flops
        total.bytes[kernel.kind] += kernel.bytes
        total.seconds[kernel.kind] += seconds
        if kernel.library:
            total.library_calls[kernel.library] += 1
        if kernel.kind in (MOVEMENT, OTHER):
            total.passes[sources.of(module, instruction)] += seconds

    return program_totals(module, GpuCost, count)
