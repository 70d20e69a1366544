"""The text of a compiled program (optimized HLO, in the order of its schedule), taken apart."""

import dataclasses
import functools
import itertools
import math
import re

_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) \(.*\{$")
_INSTRUCTION = re.compile(r"^  (?:ROOT )?%(\S+) = (.+)$")
_SHAPE = re.compile(r"^\(?([a-z]\w*)\[([\d,]*)\]")
_OPCODE = re.compile(r" ([a-z][\w-]*)\(")
_OPERANDS = re.compile(r"%([^\s,)]+)")
_CALLS = re.compile(r"(?:calls|to_apply|body)=%([^\s,]+)")
_CONDITION = re.compile(r"condition=%([^\s,]+)")
_BRANCHES = re.compile(
    r"branch_computations=\{([^}]*)\}|true_computation=([^\s,]+), false_computation=([^\s,]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")
_DEVICES = re.compile(r"HloModule [^\n]*\bnum_partitions=(\d+)")
_ARRAYS = re.compile(r"\b([a-z]+\d+\w*|pred)\[([\d,]*)\]")  # f8e4m3fn is eight bits


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction: its name, and what stands behind the equals sign."""

    name: str
    text: str

    @functools.cached_property
    def opcode(self) -> str:
        """What it does, such as "fusion" or "all-gather-start"."""
        return found(_OPCODE, self.text)[1]

    @property
    def is_fusion(self) -> bool:
        """Whether it is a kernel of several instructions, perhaps on a stream of its own."""
        return self.opcode in ("fusion", "fusion-start")

    @functools.cached_property
    def called(self) -> str:
        """The computation that it runs, a fusion's, a loop's body, a call's; empty for none."""
        match = _CALLS.search(self.text)
        return match[1] if match else ""

    @property
    def condition(self) -> str:
        """The computation that tells a loop when to stop."""
        return found(_CONDITION, self.text)[1]

    @property
    def branches(self) -> list[str]:
        """The computations of which a conditional runs one."""
        indexed, *of_predicate = found(_BRANCHES, self.text).groups()
        names = indexed.split(",") if indexed else of_predicate
        return [name.strip().lstrip("%") for name in names]

    @functools.cached_property
    def cycles(self) -> int | None:
        """The compiler's estimate; None where it gives none, as for collectives."""
        match = _CYCLES.search(self.text)
        return int(match[1]) if match else None

    @functools.cached_property
    def channel(self) -> str | None:
        """Of a collective; kernels that it is spread over have the same one."""
        match = _CHANNEL.search(self.text)
        return match[1] if match else None

    @property
    def dims(self) -> tuple[int, ...]:
        """Shape of its (first) result."""
        match = _SHAPE.match(self.text)
        return tuple(int(d) for d in match[2].split(",") if d) if match else ()

    @functools.cached_property
    def operands(self) -> list[str]:
        """Names of what it takes."""
        arguments = self.text[self.text.index(f" {self.opcode}(") :]
        return _OPERANDS.findall(arguments.partition(")")[0])

    @property
    def array_bytes(self) -> list[float]:
        """Bytes of each array in its result."""
        result = self.text[: self.text.index(f" {self.opcode}(")]
        return [_bytes(*array) for array in _ARRAYS.findall(result)]


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: the instructions of its computations in the order they run, and where it begins.

    num_devices: that run it together.
    """

    computations: dict[str, list[Instruction]]
    entry: str
    num_devices: int

    @classmethod
    def parse(cls, text: str) -> "Module":
        """From the text of a compiled program."""
        computations: dict[str, list[Instruction]] = {}
        entry = current = ""
        for line in text.splitlines():
            if match := _COMPUTATION.match(line):
                current = match[2]
                computations[current] = []
                entry = current if match[1] else entry
            elif match := _INSTRUCTION.match(line):
                computations[current].append(Instruction(match[1], match[2]))
        devices = _DEVICES.match(text)
        return cls(computations, entry, int(devices[1]) if devices else 1)

    @functools.cached_property
    def named(self) -> dict[str, Instruction]:
        """All instructions by their names, which differ."""
        return {i.name: i for i in itertools.chain.from_iterable(self.computations.values())}

    def trip_count(self, loop: Instruction) -> int:
        """How often a counting loop runs: by the compiler, or what its condition compares with."""
        if match := _TRIPS.search(loop.text):
            return int(match[1])
        found = (
            re.search(r" constant\((\d+)\)", i.text) for i in self.computations[loop.condition]
        )
        return max((int(match[1]) for match in found if match), default=1)

    def inside(self, instruction: Instruction) -> list[Instruction]:
        """The instructions of what it calls, of fusions and calls in there too."""
        within: list[Instruction] = []
        for inner in self.computations.get(instruction.called, ()):
            within += [inner, *self.inside(inner)]
        return within


def found(pattern: str | re.Pattern[str], text: str) -> re.Match[str]:
    """What of a program's text has to be there. Raises ValueError where it is not."""
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(
            f"the compiler writes its programs in another form than known: {text:.200}"
        )
    return match


def _bytes(dtype: str, dims: str) -> float:
    bits = 8 if dtype == "pred" else int(found(r"\d+", dtype)[0])
    return math.prod(int(d) for d in dims.split(",") if d) * bits / 8
