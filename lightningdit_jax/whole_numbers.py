"""Whole numbers that come from outside, checked where they enter. Imports nothing of ours."""

import numbers
from typing import Any

# Seeds and sample indices enter random keys as uint32: one beyond would repeat another.
NUM_SEEDS = 2**32
TOO_LARGE = 2**63  # for 64 bits, and so for whatever computes with it


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """value, an int of Python or of NumPy, as a Python int.

    Raises ValueError naming it for another type, bools and floats among them, and for one outside
    low..high.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Integral)
        or not low <= int(value) <= high
    ):
        raise ValueError(f"{name} is {value!r}; expected a whole number from {low} to {high}")
    return int(value)
