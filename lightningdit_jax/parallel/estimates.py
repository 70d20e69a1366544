"""How long the arithmetic of a compiled program takes, and what of it, on an accelerator."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from lightningdit_jax.parallel.chips import Chip
from lightningdit_jax.parallel.gpu_cost import gpu_cost
from lightningdit_jax.parallel.hlo_cost import cycles_of, program_cost
from lightningdit_jax.parallel.hlo_text import Instruction, Module
from lightningdit_jax.parallel.kernel_sources import Sources
from lightningdit_jax.parallel.kernels import kernel_of
from lightningdit_jax.parallel.program_totals import Totals
from lightningdit_jax.parallel.timeline import SecondsOf

_PASSES_SHOWN = 16


@dataclasses.dataclass(frozen=True)
class Estimate:
    """totals: of the program. parts: seconds, by what takes them. seconds_of: an instruction.

    details: what a report says of this kind of accelerator beside what it says of all.
    """

    totals: Totals
    parts: Mapping[str, float]
    seconds_of: SecondsOf
    details: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """Of all parts together."""
        return sum(self.parts.values())


def tpu_estimate(
    module: Module,
    chip: Chip,
    components: Collection[str] = (),
    kernel_cycles: Mapping[str, float] | None = None,
) -> Estimate:
    """By the compiler's cycles over the chip's clock.

    components: see program_cost. kernel_cycles: as cycles_of has them, of one core.
    """
    known = {name: cycles / chip.cores for name, cycles in (kernel_cycles or {}).items()}
    cost = program_cost(module, components, known)
    details = {
        "product_utilization": {
            einsum or "others": flops / (cost.product_cycles[einsum] / chip.clock * chip.peak_flops)
            for einsum, flops in cost.product_flops.most_common()
            if cost.product_cycles[einsum]
        },
        "product_cycle_shares": {
            einsum or "others": cycles / cost.total_cycles
            for einsum, cycles in cost.product_cycles.most_common()
        },
        "cycle_shares": {
            kind: cycles / cost.total_cycles for kind, cycles in cost.cycles.most_common()
        },
        "component_cycle_shares": {
            component: cycles / cost.total_cycles
            for component, cycles in cost.component_cycles.most_common()
        },
    }
    parts = {kind: cycles / chip.clock for kind, cycles in cost.cycles.items()}
    return Estimate(cost, parts, lambda i: cycles_of(module, i, known) / chip.clock, details)


def gpu_estimate(module: Module, chip: Chip, text: str) -> Estimate:
    """By the products and bytes of every kernel, at the chip's peak and bandwidth."""
    cost = gpu_cost(module, chip, Sources(text))
    passes = _descending(cost.passes)
    shown = {name: passes[name] for name in list(passes)[:_PASSES_SHOWN] if name}
    shown["others"] = sum(passes.values()) - sum(shown.values())
    details = {
        "kernels": dict(cost.kernels.most_common()),
        "kernel_flops": {kind: flops for kind, flops in _descending(cost.flops).items() if flops},
        "kernel_bytes": _descending(cost.bytes),
        "kernel_seconds": _descending(cost.seconds),
        "library_calls": dict(cost.library_calls.most_common()),
        "pass_seconds": shown,
    }

    def seconds_of(instruction: Instruction) -> float:
        kernel = kernel_of(module, instruction)
        return kernel.seconds(chip) if kernel else 0.0

    return Estimate(cost, cost.seconds, seconds_of, details)


def _descending(amounts: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(amounts.items(), key=lambda item: -item[1]))
