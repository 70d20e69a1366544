"""Which part of the code a kernel comes from, by the stack frames in a program's text."""

import collections
import math
import pathlib
import re

from lightningdit_jax.parallel.hlo_text import Instruction, Module

_PACKAGE = f"{pathlib.Path(__file__).resolve().parent.parent}/"
_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_ENTRY = re.compile(r"^(\d+) (.*)$")
_FRAME = re.compile(r"\bstack_frame_id=(\d+)")


class Sources:
    """The tables of stack frames that precede the computations in a program's text."""

    def __init__(self, text: str):
        tables: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
        table: dict[int, str] = {}
        for line in text.splitlines():
            if line.startswith(("%", "ENTRY")):
                break
            table = tables.get(line, table)
            if match := _ENTRY.match(line):
                table[int(match[1])] = match[2]
        files, functions, locations, self._frames = (tables[name] for name in _TABLES)
        self._places = {
            number: (
                files[_number("file_name_id", location)].strip('"'),
                functions[_number("function_name_id", location)].strip('"'),
            )
            for number, location in locations.items()
        }
        # The outermost frame has no caller; some compilers write all callers one too high.
        self._shift = _number("parent_frame_id", self._frames.get(1, ""))

    def of(self, module: Module, kernel: Instruction) -> str:
        """The class or function that most of a kernel's numbers come from, and the pass.

        "SwiGLU backward": of this package, the innermost in their stacks. Empty where none is.
        """
        numbers: collections.Counter[str] = collections.Counter()
        for inner in (kernel, *module.inside(kernel)):
            if match := _FRAME.search(inner.text):
                numbers[self._part(int(match[1]))] += math.prod(inner.dims)
        del numbers[""]
        if not numbers:
            return ""
        ((part, _),) = numbers.most_common(1)
        return f"{part} backward" if "transpose(jvp" in kernel.text else part

    def _part(self, number: int) -> str:
        while frame := self._frames.get(number):
            file, function = self._places[_number("file_location_id", frame)]
            if file.startswith(_PACKAGE):
                return function.partition(".")[0]
            number = min(number, _number("parent_frame_id", frame)) - self._shift
        return ""


def _number(key: str, text: str) -> int:
    match = re.search(rf"\b{key}=(\d+)", text)
    return int(match[1]) if match else 0
