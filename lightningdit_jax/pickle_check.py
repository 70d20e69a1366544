"""What a pickle would ask of whoever reads it, found before it is read. Imports nothing of ours."""

import dataclasses
import pickle
import pickletools
import typing
from typing import IO, Any, BinaryIO

# Of keys, and of what is called: hashing goes through all of it, each time.
_MOST_DEPTH = 1000
_MOST_PARTS, _PARTS_A_STEP = 2**20, 64
_LONGEST_LINE = 2**16
_FILLING = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
_READS_MEMO = {"GET", "BINGET", "LONG_BINGET"}
_WRITES_MEMO = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}


class UnreadableError(ValueError):
    """A reason that is completed with the name of the file."""


@dataclasses.dataclass
class _Made:
    """An object that a pickle makes: how many parts it has, those it shares counted each time."""

    parts: int = 1
    depth: int = 1

    def add(self, others: list["_Made | None"]) -> None:
        for other in others:
            if other is not None:
                self.parts += other.parts
                self.depth = max(self.depth, 1 + other.depth)


def check_pickle(file: BinaryIO, size: int) -> None:
    """Raises UnreadableError for a pickle that asks for much memory or time by a few bytes.

    Of the pickle that begins where the file stands, `size` bytes at most; reads it, makes none of
    its objects and goes back to where it stood. An unpickler's table of what is memorized grows to
    the largest index; it asks for the memory that a length claims before it looks whether so much
    is there; and a tuple of itself twice, sixty times over, has 2^60 leaves for who hashes it.
    """
    begin = file.tell()
    stack: list[_Made | None] = []  # None is a mark
    memo: dict[int, _Made] = {}
    parts = 0
    steps = pickletools.genops(typing.cast(IO[bytes], _Bounded(file, begin + size)))
    for count, (opcode, said, _) in enumerate(steps):
        name, argument = opcode.name, typing.cast(Any, said)
        if name in ("PUT", "LONG_BINPUT") and (argument or 0) > count:
            raise UnreadableError(f"a pickle of {count} steps memorizes an object as {argument}")
        if name == "FRAME" and argument > size:
            raise UnreadableError(f"a pickle of {size} bytes claims a frame of {argument}")
        if name in _WRITES_MEMO:
            memo[len(memo) if name == "MEMOIZE" else argument] = _top(stack)
        elif name in _READS_MEMO:
            stack.append(memo.get(argument, _Made()))
        elif name == "DUP":
            stack.append(_top(stack))
        else:
            used = [made for made in _step(opcode, stack) if made is not None]
            parts += sum(made.parts for made in used)
            if parts > _MOST_PARTS + _PARTS_A_STEP * count:
                raise UnreadableError(f"a pickle of {count} steps has keys of {parts} parts")
            if any(made.depth > _MOST_DEPTH for made in used):
                raise UnreadableError(f"a pickle has keys nested more than {_MOST_DEPTH} deep")
    file.seek(begin)


def _step(opcode: pickletools.OpcodeInfo, stack: list[_Made | None]) -> list[_Made | None]:
    """Takes from the stack what an opcode takes, and puts what it makes of that.

    Returns those that become keys or are called with.
    """
    before, after = opcode.stack_before, opcode.stack_after
    taken: list[_Made | None] = []  # the last first
    if pickletools.markobject in before:
        while (made := _pop(stack)) is not None:
            taken.append(made)
        before = before[: before.index(pickletools.markobject)]
    below = [_pop(stack) for _ in before]
    if opcode.name in _FILLING:
        *others, target = below
        if target is None:
            raise pickle.UnpicklingError("it puts an object into a mark")
        target.add([*taken, *others])
        stack.append(target)
    else:
        for kind in after:
            made = None if kind is pickletools.markobject else _Made()
            if made is not None:
                made.add([*taken, *below])
            stack.append(made)
    match opcode.name:
        case "SETITEM":
            return below[1:2]
        case "SETITEMS" | "DICT":
            return taken[1::2]
        case "ADDITEMS" | "FROZENSET" | "OBJ" | "INST":
            return taken
        case "REDUCE" | "NEWOBJ" | "BINPERSID":
            return below[:1]
        case "NEWOBJ_EX":
            return below[:2]
    return []


def _pop(stack: list[_Made | None]) -> _Made | None:
    if not stack:
        raise pickle.UnpicklingError("it takes more than it has made")
    return stack.pop()


def _top(stack: list[_Made | None]) -> _Made:
    if not stack or stack[-1] is None:
        raise pickle.UnpicklingError("it takes more than it has made")
    return stack[-1]


class _Bounded:
    """A file up to a place, of which no more is asked than is there: Python's own asks for the
    memory first."""

    def __init__(self, file: BinaryIO, end: int):
        self._file, self._end = file, end
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        return self._file.read(max(0, min(size, self._end - self.tell())))

    def readline(self) -> bytes:
        return self._file.readline(_LONGEST_LINE)
