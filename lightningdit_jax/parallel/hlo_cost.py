"""What a compiled TPU program costs, read from its optimised HLO text.

XLA's own cost analysis counts the body of a loop once; here it counts as often as it runs.
"""

import collections
import dataclasses
import math
import re

_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) \(.*\{$")
_INSTRUCTION = re.compile(r"^  (?:ROOT )?%(\S+) = (.+)$")
_SHAPE = re.compile(r"^\(?([a-z]\w*)\[([\d,]*)\]")
_OPCODE = re.compile(r" ([a-z][\w-]*)\(")
_OPERANDS = re.compile(r"%([^\s,)]+)")
_CALLS = re.compile(r"(?:calls|to_apply|body)=%([^\s,]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")
_ARRAYS = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\]")
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# What moves numbers and computes none.
_MOVES = {
    *("bitcast", "broadcast", "concatenate", "convert", "copy", "copy-start", "copy-done"),
    *("dynamic-slice", "dynamic-update-slice", "gather", "pad", "reshape", "reverse", "slice"),
    *("transpose", "parameter", "constant", "get-tuple-element", "tuple", "iota", "fusion"),
}
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
    cycles: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    product_flops: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    product_cycles: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    collectives: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    overlapped: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    collective_bytes: collections.Counter = dataclasses.field(default_factory=collections.Counter)

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


def program_cost(text: str) -> Cost:
    """Cost of the entry computation of an HLO module, loops counted as often as they run."""
    computations, entry = _split(text)
    done: dict[str, Cost] = {}

    def cost_of(name: str) -> Cost:
        if name not in done:
            done[name] = _computation_cost(computations, name, cost_of)
        return done[name]

    return cost_of(entry)


def _split(text: str) -> tuple[dict[str, list[tuple[str, str]]], str]:
    """Computations as lists of (instruction name, what it is), and the entry's name."""
    computations: dict[str, list[tuple[str, str]]] = {}
    entry = current = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = match[2]
            computations[current] = []
            entry = current if match[1] else entry
        elif match := _INSTRUCTION.match(line):
            computations[current].append((match[1], match[2]))
    return computations, entry


def _computation_cost(computations, name, cost_of) -> Cost:
    total = Cost()
    shapes = {n: _dims(rest) for n, rest in computations[name]}
    channels = set()  # of collectives counted here: one that overlaps appears in several fusions
    for _, rest in computations[name]:
        opcode = _OPCODE.search(rest)[1]
        called = _CALLS.search(rest)
        inner = Cost()
        if opcode in ("convolution", "dot"):
            flops = _matmul_flops(rest, opcode, shapes)
            total.matmul_flops += flops
            total.product_flops[_einsum(rest)] += flops
        elif opcode == "while":
            condition = re.search(r"condition=%([^\s,]+)", rest)[1]
            total.add(cost_of(called[1]), _trip_count(computations[condition]))
        elif opcode == "conditional":
            branches = [b.strip().lstrip("%") for b in _BRANCHES.search(rest)[1].split(",")]
            total.add(max((cost_of(b) for b in branches), key=lambda c: c.matmul_flops))
        elif opcode == "fusion" and called:
            inner = cost_of(called[1])
            total.matmul_flops += inner.matmul_flops
            total.product_flops.update(inner.product_flops)
            for _, inside in computations[called[1]]:
                channel = _CHANNEL.search(inside)
                if channel and channel[1] not in channels:
                    channels.add(channel[1])
                    _count_collective(total, inside, fused_into=called[1])
        elif opcode in ("call", "async-start") and called:
            total.add(cost_of(called[1]))
        _count_collective(total, rest)
        if cycles := _CYCLES.search(rest):
            inside = computations[called[1]] if opcode == "fusion" and called else [("", rest)]
            opcodes = {_OPCODE.search(instruction)[1] for _, instruction in inside}
            if opcode in ("convolution", "dot") or inner.matmul_flops:
                kind = MATMUL
                asked = inner.product_flops or {_einsum(rest): 1}
                total.product_cycles[max(asked, key=asked.get)] += int(cycles[1])
            else:
                kind = MOVEMENT if opcodes <= _MOVES else OTHER
            total.cycles[kind] += int(cycles[1])
    return total


def _einsum(rest: str) -> str:
    """The einsum, such as "BNHK,BMHK->BHNM", that an instruction comes from, if it is from one."""
    name = re.search(r'op_name="([^"]*)"', rest)
    return next((part for part in name[1].split("/") if "->" in part), "") if name else ""


def _count_collective(total: Cost, rest: str, fused_into: str = "") -> None:
    """Adds an instruction if it is a collective. fused_into: the computation of its fusion."""
    opcode = _OPCODE.search(rest)[1]
    kind = opcode.removesuffix("-start")
    if kind not in _COLLECTIVES:
        return
    sizes = [_bytes(*array) for array in _ARRAYS.findall(rest[: rest.index(f" {opcode}(")])]
    overlapped = opcode != kind or bool(fused_into)
    if fused_into.startswith("all-reduce-scatter"):
        kind, overlapped = "reduce-scatter", False
    total.collectives[kind] += 1
    total.overlapped[kind] += overlapped
    # What a start returns is its operand, its result and perhaps its state.
    total.collective_bytes[kind] += max(sizes) if opcode.endswith("-start") else sum(sizes)


def _bytes(dtype: str, dims: str) -> float:
    bits = 8 if dtype == "pred" else int(re.search(r"\d+", dtype)[0])
    return math.prod(int(d) for d in dims.split(",") if d) * bits / 8


def _dims(rest: str) -> tuple[int, ...]:
    match = _SHAPE.match(rest)
    return tuple(int(d) for d in match[2].split(",") if d) if match else ()


def _matmul_flops(rest: str, opcode: str, shapes: dict[str, tuple[int, ...]]) -> float:
    arguments = rest[rest.index(f" {opcode}(") :]
    left, right = (shapes[n] for n in _OPERANDS.findall(arguments.partition(")")[0])[:2])
    out = math.prod(_dims(rest))
    if opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)[1]
        return 2.0 * out * math.prod(left[int(d)] for d in contracted.split(",") if d)
    lhs, kernel, output = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest).groups()
    out_dims = _dims(rest)
    window = re.search(r"window=\{([^}]*)\}", rest)
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


def _trip_count(condition: list[tuple[str, str]]) -> int:
    """The constant that a counting loop compares with."""
    constants = [re.search(r" constant\((\d+)\)", rest) for _, rest in condition]
    return max((int(match[1]) for match in constants if match), default=1)
