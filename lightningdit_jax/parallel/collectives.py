"""The collectives of a compiled program: what they move, and among which devices."""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

from lightningdit_jax.parallel.hlo_text import Instruction, Module

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Groups of devices as mesh['a'=4,'b'=2] {'a'}, as [2,4]<=[4,2]T(1,0), as {{0,1},{2,3}}, or {}.
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTS = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """kind: one of KINDS. whole_bytes: of the arrays that it gathers, sums or sends, whole.

    groups: int [G, n], the devices by their place in the mesh, each row one that works together; of
    a collective-permute rows of sender and receiver.
    """

    kind: str
    whole_bytes: float
    groups: np.ndarray


@dataclasses.dataclass(frozen=True)
class Found:
    """A collective where a program runs it. key: the same in all kernels that carry it.

    waits: whether nothing runs beside it. carried: whether kernels carry it, else it goes by itself
    between its start and its done.
    """

    key: str
    collective: Collective
    waits: bool
    carried: bool = False


def collectives_of(module: Module, instruction: Instruction) -> Iterator[Found]:
    """The collectives that an instruction is, starts or carries."""
    opcode, name = instruction.opcode, instruction.name
    if _is_collective(instruction):
        waits = not opcode.endswith("-start") or '"is_sync":true' in instruction.text
        yield Found(name, _read(instruction, module), waits)
    elif opcode in ("call-start", "async-start"):  # tpu7x: another core of the chip runs them
        for inner in filter(_is_collective, module.inside(instruction)):
            yield Found(name, _read(inner, module), waits=False)
    elif opcode == "fusion" and instruction.called:
        scatters = instruction.called.startswith("all-reduce-scatter")
        for inner in filter(_is_collective, module.computations[instruction.called]):
            collective = _read(inner, module)
            if scatters:
                yield Found(name, dataclasses.replace(collective, kind="reduce-scatter"), True)
            elif inner.channel is None:
                yield Found(name, collective, waits=True)
            else:
                yield Found(f"channel {inner.channel}", collective, waits=False, carried=True)


def _is_collective(instruction: Instruction) -> bool:
    return instruction.opcode.removesuffix("-start") in KINDS


def _read(instruction: Instruction, module: Module) -> Collective:
    kind, sizes = instruction.opcode.removesuffix("-start"), instruction.array_bytes
    groups = _groups(instruction.text, module.num_devices)
    # What a start returns are its operands, its results and perhaps its state.
    starts, several = instruction.opcode.endswith("-start"), len(instruction.operands)
    size = sum(max(sizes[i : 2 * several : several]) for i in range(several))
    size = size if starts else sum(sizes)
    if kind == "reduce-scatter" and not starts:  # its result is a part of what it sums
        size *= groups.shape[1]
    return Collective(kind, size, groups)


def _groups(text: str, num_devices: int) -> np.ndarray:
    if match := _MESH.search(text):
        sizes = {}
        for axis in match[1].split(","):
            name, _, size = axis.partition("=")
            sizes[name] = int(size)
        inner = [name.strip() for name in match[2].split(",") if name.strip()]
        outer = [name for name in sizes if name not in inner]
        order = [list(sizes).index(name) for name in (*outer, *inner)]
        ids = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
        return ids.transpose(order).reshape(-1, math.prod(sizes[name] for name in inner))
    if match := _IOTA.search(text):
        shape, dims = (list(map(int, part.split(","))) for part in match.groups()[:2])
        ids = np.arange(math.prod(dims)).reshape(dims)
        if match[3]:
            ids = ids.transpose(list(map(int, match[3].split(","))))
        return ids.reshape(shape[0], -1)
    if match := _LISTS.search(text):
        rows = re.findall(r"\{([\d, ]+)\}", match[1])
        return np.array([list(map(int, row.split(","))) for row in rows])
    return np.arange(num_devices)[None]  # all together
