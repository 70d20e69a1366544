"""Command lines: words and numbers with commas between them, and what has to be there."""

import argparse
import os
import pathlib


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


def study_of_digits(description: str) -> argparse.ArgumentParser:
    """What the studies of generators on the demo's digits are all asked."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--demo", type=pathlib.Path, default=pathlib.Path("outputs/demo"))
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sampling-seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--samples", type=int, default=200)
    return parser
