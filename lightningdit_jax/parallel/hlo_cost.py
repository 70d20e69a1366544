"""What a compiled TPU program costs, read from its optimized HLO text.

XLA's own cost analysis counts the body of a loop once; here it counts as often as it runs.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Collection, Mapping

from lightningdit_jax.parallel.hlo_text import Instruction, Module
from lightningdit_jax.parallel.pallas_kernels import kernel_flops, kernel_in, kernel_name
from lightningdit_jax.parallel.product_flops import PRODUCTS, matmul_flops
from lightningdit_jax.parallel.program_totals import (
    KERNEL,
    MATMUL,
    MOVEMENT,
    OTHER,
    Counts,
    Totals,
    moves_only,
    program_totals,
)


@dataclasses.dataclass
class Cost(Totals):
    """Totals with the compiler's cycles.

    cycles: its estimates, by what takes them, without collectives; of kernels in Pallas what the
    caller says. product_flops, product_cycles: of the products, by the einsum that asked for them
    or "", or by the kernel that has them in it.
    component_cycles: by the jax.named_scope that a kernel's result is of, or "others".
    """

    cycles: Counts = dataclasses.field(default_factory=collections.Counter)
    product_flops: Counts = dataclasses.field(default_factory=collections.Counter)
    product_cycles: Counts = dataclasses.field(default_factory=collections.Counter)
    component_cycles: Counts = dataclasses.field(default_factory=collections.Counter)

    @property
    def total_cycles(self) -> int:
        """Cycles of all kinds together."""
        return sum(self.cycles.values())


def program_cost(
    module: Module,
    components: Collection[str] = (),
    kernel_cycles: Mapping[str, float] | None = None,
) -> Cost:
    """Cost of a program, loops counted as often as they run.

    components: the scopes that component_cycles tells apart; of nested ones the outermost counts.
    kernel_cycles: see cycles_of.
    """
    known = kernel_cycles or {}

    def count(total: Cost, instruction: Instruction, of: Callable[[str], Cost]) -> None:
        opcode, called = instruction.opcode, instruction.called
        inner = of(called) if opcode == "fusion" and called else Cost()
        if opcode in PRODUCTS:
            inner.matmul_flops = matmul_flops(module, instruction)
            inner.product_flops[_einsum(instruction)] = int(inner.matmul_flops)
        kernel, cycles = kernel_in(module, instruction), int(cycles_of(module, instruction, known))
        if kernel:
            inner.matmul_flops = kernel_flops(kernel)
            inner.product_flops[kernel_name(kernel)] = int(inner.matmul_flops)
        total.matmul_flops += inner.matmul_flops
        total.product_flops.update(inner.product_flops)
        if not cycles:
            return
        kind = OTHER
        if kernel:
            kind = KERNEL
            total.product_cycles[kernel_name(kernel)] += cycles
        elif inner.matmul_flops:
            kind = MATMUL
            asked = inner.product_flops
            total.product_cycles[max(asked, key=lambda name: asked[name])] += cycles
        elif moves_only(module, instruction):
            kind = MOVEMENT
        total.cycles[kind] += cycles
        if components:
            total.component_cycles[_component(instruction, components)] += cycles

    return program_totals(module, Cost, count)


def cycles_of(
    module: Module, instruction: Instruction, kernel_cycles: Mapping[str, float]
) -> float:
    """The compiler's estimate of an instruction, 0 where there is none.

    kernel_cycles: of kernels in Pallas by name, each for one of the images, or what else their
    result's first axis counts.
    """
    if kernel := kernel_in(module, instruction):
        return kernel_cycles.get(kernel_name(kernel), 0.0) * kernel.dims[0]
    return instruction.cycles or 0


def _einsum(instruction: Instruction) -> str:
    """The einsum, such as "BNHK,BMHK->BHNM", that an instruction comes from, if it is from one."""
    return next((part for part in _op_name(instruction).split("/") if "->" in part), "")


def _component(instruction: Instruction, components: Collection[str]) -> str:
    """The outermost of the scopes that an instruction comes from, derivatives included."""
    scopes = re.findall(r"\w+", _op_name(instruction))
    return next((scope for scope in scopes if scope in components), "others")


def _op_name(instruction: Instruction) -> str:
    """Where it comes from in the traced program, such as "jit(f)/transpose(jvp(scope))/mul"."""
    name = re.search(r'op_name="([^"]*)"', instruction.text)
    return name[1] if name else ""
