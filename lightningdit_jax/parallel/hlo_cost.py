"""What a compiled TPU program costs, read from its optimized HLO text.

XLA's own cost analysis counts the body of a loop once; here it counts as often as it runs.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable

from lightningdit_jax.parallel.collectives import collectives_of
from lightningdit_jax.parallel.hlo_text import Instruction, Module, found

# What moves numbers and computes none.
_MOVES = {
    *("bitcast", "broadcast", "concatenate", "convert", "copy", "copy-start", "copy-done"),
    *("dynamic-slice", "dynamic-update-slice", "gather", "pad", "reshape", "reverse", "slice"),
    *("transpose", "parameter", "constant", "get-tuple-element", "tuple", "iota", "fusion"),
}
_PRODUCTS = ("convolution", "dot")
# Of FLOPs, cycles, bytes, by name.
Counts = collections.Counter[str]
MATMUL, MOVEMENT, OTHER = "products", "copies and casts", "elementwise and reductions"


@dataclasses.dataclass
class Cost:
    """Totals per device and run of the program.

    matmul_flops: two per multiply-add of dots and convolutions. cycles: the compiler's estimates,
    by what takes them; they leave out collectives and Pallas kernels. product_flops,
    product_cycles: of the products, by the einsum that asked for them or "". collectives: how many
    of each kind run; overlapped: how many of them beside arithmetic; collective_bytes: of the whole
    arrays that they gather, sum or send.
    """

    matmul_flops: float = 0.0
    cycles: Counts = dataclasses.field(default_factory=collections.Counter)
    product_flops: Counts = dataclasses.field(default_factory=collections.Counter)
    product_cycles: Counts = dataclasses.field(default_factory=collections.Counter)
    collectives: Counts = dataclasses.field(default_factory=collections.Counter)
    overlapped: Counts = dataclasses.field(default_factory=collections.Counter)
    collective_bytes: Counts = dataclasses.field(default_factory=collections.Counter)

    @property
    def total_cycles(self) -> int:
        """Cycles of all kinds together."""
        return sum(self.cycles.values())

    def add(self, other: "Cost", times: int = 1) -> None:
        """Adds another cost, so many times."""
        self.matmul_flops += times * other.matmul_flops
        for field in dataclasses.fields(self):
            if field.name == "matmul_flops":
                continue
            for key, amount in getattr(other, field.name).items():
                getattr(self, field.name)[key] += times * amount


def program_cost(module: Module) -> Cost:
    """Cost of a program, loops counted as often as they run."""
    done: dict[str, Cost] = {}

    def cost_of(name: str) -> Cost:
        if name not in done:
            done[name] = _computation_cost(module, name, cost_of)
        return done[name]

    return cost_of(module.entry)


def _computation_cost(module: Module, name: str, cost_of: Callable[[str], Cost]) -> Cost:
    total = Cost()
    instructions = module.computations[name]
    shapes = {instruction.name: instruction.dims for instruction in instructions}
    seen = set()  # of collectives: one that overlaps is in several kernels
    for instruction in instructions:
        opcode, called = instruction.opcode, instruction.called
        inner = Cost()
        if opcode in _PRODUCTS:
            flops = _matmul_flops(instruction, shapes)
            total.matmul_flops += flops
            total.product_flops[_einsum(instruction)] += int(flops)
        elif opcode == "while":
            total.add(cost_of(called), module.trip_count(instruction))
        elif opcode == "conditional":
            branches = map(cost_of, instruction.branches)
            total.add(max(branches, key=lambda cost: cost.matmul_flops))
        elif opcode == "fusion" and called:
            inner = cost_of(called)
            total.matmul_flops += inner.matmul_flops
            total.product_flops.update(inner.product_flops)
        elif opcode in ("call", "async-start") and called:
            total.add(cost_of(called))
        for run in collectives_of(module, instruction):
            if run.key not in seen:
                seen.add(run.key)
                total.collectives[run.collective.kind] += 1
                total.overlapped[run.collective.kind] += not run.waits
                total.collective_bytes[run.collective.kind] += int(run.collective.whole_bytes)
        if instruction.cycles:
            kind = OTHER
            if opcode in _PRODUCTS or inner.matmul_flops:
                kind = MATMUL
                asked = inner.product_flops or {_einsum(instruction): 1}
                total.product_cycles[max(asked, key=lambda name: asked[name])] += instruction.cycles
            elif _opcodes(module, instruction) <= _MOVES:
                kind = MOVEMENT
            total.cycles[kind] += instruction.cycles
    return total


def _opcodes(module: Module, instruction: Instruction) -> set[str]:
    """What a kernel does."""
    if instruction.opcode != "fusion" or not instruction.called:
        return {instruction.opcode}
    return {inner.opcode for inner in module.computations[instruction.called]}


def _einsum(instruction: Instruction) -> str:
    """The einsum, such as "BNHK,BMHK->BHNM", that an instruction comes from, if it is from one."""
    name = re.search(r'op_name="([^"]*)"', instruction.text)
    return next((part for part in name[1].split("/") if "->" in part), "") if name else ""


def _matmul_flops(instruction: Instruction, shapes: dict[str, tuple[int, ...]]) -> float:
    left, right = (shapes[name] for name in instruction.operands[:2])
    text, out_dims = instruction.text, instruction.dims
    if instruction.opcode == "dot":
        contracted = found(r"lhs_contracting_dims=\{([\d,]*)\}", text)[1]
        return 2.0 * math.prod((*out_dims, *(left[int(d)] for d in contracted.split(",") if d)))
    lhs, kernel, output = found(r"dim_labels=(\w+)_(\w+)->(\w+)", text).groups()
    window = re.search(r"window=\{([^}]*)\}", text)
    settings = dict(part.split("=", 1) for part in window[1].split()) if window else {}
    flops = 2.0 * right[kernel.index("i")]
    flops *= math.prod(out_dims[output.index(label)] for label in "bf")
    for axis in sorted(label for label in output if label.isdigit()):
        flops *= _window_pairs(
            left[lhs.index(axis)], out_dims[output.index(axis)], settings, int(axis)
        )
    return flops


def _window_pairs(size_in: int, size_out: int, settings: dict[str, str], axis: int) -> int:
    """How many (output, kernel) positions of an axis meet an input, not padding or a hole.

    XLA writes batched and fused products as convolutions in which most positions meet nothing.
    """

    def setting(name: str, default: str) -> str:
        return settings[name].split("x")[axis] if name in settings else default

    kernel, stride = int(setting("size", "1")), int(setting("stride", "1"))
    hole, step = int(setting("lhs_dilate", "1")), int(setting("rhs_dilate", "1"))
    before = int(setting("pad", "0_0").split("_")[0])
    places = (o * stride + k * step - before for o in range(size_out) for k in range(kernel))
    return sum(0 <= p <= (size_in - 1) * hole and p % hole == 0 for p in places)
