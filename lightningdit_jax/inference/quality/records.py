"""What evaluation.json and the rows of sweep.json say of numbers and of how sure they are."""

import math
from collections.abc import Mapping
from typing import Any

from lightningdit_jax.evaluation.error_bars import ErrorBar, of_mean
from lightningdit_jax.inference.quality.metric import Judgment, Numbers

BLOCKS, SEEDS = "blocks of the samples", "sampling seeds"  # what an error bar is over
Record = dict[str, Any]


def mean_of_seeds(seeds: Mapping[Any, Numbers]) -> Judgment:
    """Means over the seeds, with error bars where there are two or more.

    What is the same for all, a count or a number of real images, has none.
    """
    first, *others = seeds.values()
    if not others:
        return Judgment(first)
    bars = {
        name: of_mean([numbers[name] for numbers in seeds.values()])
        for name, value in first.items()
        if any(numbers[name] != value for numbers in others)
    }
    return Judgment({**first, **{name: bar.value for name, bar in bars.items()}}, bars)


def error_bars(over: str, bars: Mapping[str, ErrorBar]) -> Record:
    """`error_bars`: over what, and those of each number; nothing where there are none.

    Among seeds there is also the deviation of one from another; among blocks it is the error.
    """
    if not bars:
        return {}
    numbers = {name: bar.to_json() for name, bar in bars.items()}
    if over == SEEDS:
        for name, bar in bars.items():
            deviation = bar.standard_error * math.sqrt(bar.degrees + 1)
            numbers[name]["standard_deviation"] = deviation
    return {"error_bars": {"over": over, "numbers": numbers}}


def lines_of(judgment: Judgment) -> list[str]:
    """The numbers for people, a line each."""
    lines = []
    for name, value in judgment.numbers.items():
        line = f"{name:34s} {value:.4f}"
        if bar := judgment.bars.get(name):
            low, high = bar.interval
            line += f"  ({low:.4f} to {high:.4f}, standard error {bar.standard_error:.4f})"
        lines.append(line)
    return lines
