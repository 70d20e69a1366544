"""How long a compiled program runs with its communication, by its own schedule."""

import dataclasses
from collections.abc import Callable

from lightningdit_jax.parallel.collectives import collectives_of
from lightningdit_jax.parallel.hlo_text import Instruction, Module
from lightningdit_jax.parallel.links import Network


@dataclasses.dataclass
class Timeline:
    """Seconds per device and run.

    arithmetic: of the instructions. communication: of all collectives. exposed: of theirs,
    what no arithmetic runs beside.
    """

    arithmetic: float = 0.0
    communication: float = 0.0
    exposed: float = 0.0

    @property
    def step(self) -> float:
        """From the beginning of the program to its end."""
        return self.arithmetic + self.exposed

    def add(self, other: "Timeline", times: int = 1) -> None:
        """Adds another program that runs after this one, so many times."""
        for field in dataclasses.fields(self):
            total = getattr(self, field.name) + times * getattr(other, field.name)
            setattr(self, field.name, total)


# Seconds of the arithmetic of an instruction by itself.
SecondsOf = Callable[[Instruction], float]


def program_timeline(module: Module, network: Network, seconds_of: SecondsOf) -> Timeline:
    """Runs the schedule of a module through.

    A collective that waits is exposed as a whole. One with a start and a done goes on beside the
    arithmetic scheduled between them; one that the compiler spreads over kernels beside those
    kernels alone. Of several that are under way the first started goes first. What is left of it at
    its end is exposed.
    """
    done: dict[str, Timeline] = {}

    def of(name: str) -> Timeline:
        if name not in done:
            done[name] = _computation(module, name, network, seconds_of, of)
        return done[name]

    return of(module.entry)


def _computation(
    module: Module,
    name: str,
    network: Network,
    seconds_of: SecondsOf,
    of: Callable[[str], Timeline],
) -> Timeline:
    total = Timeline()
    instructions = module.computations[name]
    runs = {i.name: list(collectives_of(module, i)) for i in instructions}
    # The kernel that a collective ends with is the last to carry it.
    last = {found.key: name for name, here in runs.items() for found in here if found.carried}
    left: dict[str, float] = {}  # seconds of each collective that is under way
    alone: list[str] = []  # those of them that no kernel carries, in the order of their starts
    for instruction in instructions:
        opcode = instruction.opcode
        if opcode == "while":
            total.add(of(instruction.called), module.trip_count(instruction))
        elif opcode == "conditional":
            total.add(max(map(of, instruction.branches), key=lambda branch: branch.step))
        elif opcode == "call":
            total.add(of(instruction.called))
        arithmetic = seconds_of(instruction)
        total.arithmetic += arithmetic
        carried = []
        for found in runs[instruction.name]:
            carried += [found.key] if found.carried else []
            if found.key in left:
                continue
            seconds = network.seconds(found.collective)
            total.communication += seconds
            if found.waits:
                total.exposed += seconds
                continue
            left[found.key] = seconds
            alone += [] if found.carried else [found.key]
        for key in carried or alone:
            beside = min(arithmetic, left[key])
            left[key] -= beside
            arithmetic -= beside
        ended = [key for key in carried if last[key] == instruction.name]
        if opcode.endswith("-done"):
            ended = instruction.operands
        for key in ended:
            total.exposed += left.pop(key, 0.0)
            alone = [other for other in alone if other != key]
    total.exposed += sum(left.values())
    return total
