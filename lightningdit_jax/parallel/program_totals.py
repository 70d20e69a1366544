"""What a compiled program adds up to when it runs, whatever is counted."""

import collections
import dataclasses
from collections.abc import Callable
from typing import TypeVar

from lightningdit_jax.parallel.collectives import collectives_of
from lightningdit_jax.parallel.hlo_text import Instruction, Module

# Of FLOPs, cycles, bytes, seconds, by name.
Counts = collections.Counter[str]
MATMUL, MOVEMENT, OTHER = "products", "copies and casts", "elementwise and reductions"
KERNEL = "attention's kernel"

# What moves numbers and computes none.
_MOVES = {
    *("bitcast", "broadcast", "concatenate", "convert", "copy", "copy-start", "copy-done"),
    *("dynamic-slice", "dynamic-update-slice", "gather", "pad", "reshape", "reverse", "slice"),
    *("transpose", "parameter", "constant", "get-tuple-element", "tuple", "iota", "fusion"),
}


@dataclasses.dataclass
class Totals:
    """Per device and run of the program.

    matmul_flops: two per multiply-add of dots and convolutions. collectives: how many of each kind
    run; overlapped: how many of them beside arithmetic; collective_bytes: of the whole arrays that
    they gather, sum or send.
    """

    matmul_flops: float = 0.0
    collectives: Counts = dataclasses.field(default_factory=collections.Counter)
    overlapped: Counts = dataclasses.field(default_factory=collections.Counter)
    collective_bytes: Counts = dataclasses.field(default_factory=collections.Counter)

    def add(self, other: "Totals", times: int = 1) -> None:
        """Adds others of the same type, so many times."""
        self.matmul_flops += times * other.matmul_flops
        for field in dataclasses.fields(self):
            if field.name == "matmul_flops":
                continue
            for key, amount in getattr(other, field.name).items():
                getattr(self, field.name)[key] += times * amount


Kind = TypeVar("Kind", bound=Totals)


def program_totals(
    module: Module,
    kind: type[Kind],
    count: Callable[[Kind, Instruction, Callable[[str], Kind]], None],
) -> Kind:
    """Totals of a program; a loop counts as often as it runs, a condition as its dearer branch.

    count: adds what an instruction by itself takes; gets the totals of computations by name.
    """
    done: dict[str, Kind] = {}

    def of(name: str) -> Kind:
        if name not in done:
            done[name] = _computation(name)
        return done[name]

    def _computation(name: str) -> Kind:
        total = kind()
        seen = set()  # of collectives: one that overlaps is in several kernels
        for instruction in module.computations[name]:
            opcode, called = instruction.opcode, instruction.called
            if opcode == "while":
                total.add(of(called), module.trip_count(instruction))
            elif opcode == "conditional":
                branches = map(of, instruction.branches)
                total.add(max(branches, key=lambda branch: branch.matmul_flops))
            elif opcode in ("call", "async-start") and called:
                total.add(of(called))
            else:
                count(total, instruction, of)
            for run in collectives_of(module, instruction):
                if run.key not in seen:
                    seen.add(run.key)
                    total.collectives[run.collective.kind] += 1
                    total.overlapped[run.collective.kind] += not run.waits
                    total.collective_bytes[run.collective.kind] += int(run.collective.whole_bytes)
        return total

    return of(module.entry)


def moves_only(module: Module, instruction: Instruction) -> bool:
    """Whether a kernel copies or casts and computes nothing."""
    if not (instruction.is_fusion and instruction.called):
        return instruction.opcode in _MOVES
    return {inner.opcode for inner in module.computations[instruction.called]} <= _MOVES
