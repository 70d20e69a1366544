"""Command lines: words and numbers with commas between them, and what has to be there."""

import argparse
import os


def names(text: str) -> list[str]:
    """The words."""
    return text.split(",")


def numbers(text: str) -> list[int]:
    """The numbers. Raises ValueError for what is none."""
    return [int(number) for number in text.split(",")]


def need_demo(parser: argparse.ArgumentParser, *folders: str | os.PathLike) -> None:
    """Ends the program with a line where a folder of `make demo` is missing."""
    for folder in folders:
        if not os.path.isdir(folder):
            parser.exit(2, f"error: {folder}: no such folder; `make demo` makes it\n")
