"""Commands as people type them. Imports nothing of ours."""

import pathlib
import shlex
import sys


def command(*arguments: str) -> str:
    """The command of this program with arguments, by the name that it was started with."""
    in_clone = pathlib.PurePath(sys.argv[0]).name == "main.py"
    program = "python main.py" if in_clone else "lightningdit"
    return " ".join([program, *map(shlex.quote, arguments)])
