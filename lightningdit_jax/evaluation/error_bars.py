"""Standard errors of numbers and of their differences, and the intervals that follow from them."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95  # of every interval


@dataclasses.dataclass(frozen=True)
class ErrorBar:
    """A number, its standard error, and how many degrees of freedom that was estimated with."""

    value: float
    standard_error: float
    degrees: float

    @property
    def interval(self) -> tuple[float, float]:
        """Where the expected value lies, by Student's t; misses it one time in twenty."""
        half = float(stdtrit(self.degrees, (1 + LEVEL) / 2)) * self.standard_error
        return self.value - half, self.value + half

    def to_json(self) -> dict[str, Any]:
        """What `evaluation.json` says beside the number."""
        return {
            "standard_error": self.standard_error,
            "degrees": float(self.degrees),
            "interval": list(self.interval),
        }


class LeftOut(NamedTuple):
    """A number of samples, and what it is without each of the blocks a jackknife leaves out."""

    value: float
    left_out: list[float]


def of_mean(values: Sequence[float] | np.ndarray) -> ErrorBar:
    """The mean of independent values, such as one a seed. Raises ValueError for fewer than two."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"values have shape {array.shape}; a spread needs two values or more")
    error = array.std(ddof=1) / math.sqrt(len(array))
    return ErrorBar(float(array.mean()), float(error), len(array) - 1)


def of_jackknife(value: float, left_out: Sequence[float]) -> ErrorBar:
    """Of a number of N samples from K more of it, each without one of K equal blocks of them.

    The delete-a-group jackknife: sqrt((K - 1) / K sum (left_out - mean)^2) is the deviation of the
    number from one set of N samples to another. Of a statistic that is biased at N samples the
    interval is about its expected value there. Efron & Stein 1981: never too small in expectation,
    up to terms of a block's share. Raises ValueError for fewer than two blocks.
    """
    array = np.asarray(left_out, np.float64)
    count = len(array)
    if array.ndim != 1 or count < 2:
        raise ValueError(f"left_out has shape {array.shape}; a jackknife needs two blocks or more")
    error = math.sqrt((count - 1) / count * np.square(array - array.mean()).sum())
    return ErrorBar(float(value), error, count - 1)


def of_difference(first: ErrorBar, second: ErrorBar) -> ErrorBar:
    """second - first, of independent samples. Welch 1947, with Satterthwaite's degrees."""
    parts = [bar.standard_error**2 for bar in (first, second)]
    total = sum(parts)
    degrees = first.degrees + second.degrees
    if total > 0:
        degrees = total**2 / (parts[0] ** 2 / first.degrees + parts[1] ** 2 / second.degrees)
    return ErrorBar(second.value - first.value, math.sqrt(total), degrees)


def random_blocks(
    count: int, num_blocks: int, labels: np.ndarray | None = None
) -> list[np.ndarray]:
    """Indices 0..count-1 in blocks of nearly one size, at random and always the same.

    At random, since samples often come class by class or with their classes in turn. labels: of
    samples whose number in each class is no chance, so that every block is to have its share of
    every class; [count], or None. Raises ValueError for fewer than two indices a block.
    """
    if count < 2 * num_blocks:
        raise ValueError(f"{count} samples make no {num_blocks} blocks of two samples or more")
    order = np.random.default_rng(0).permutation(count)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    return [np.sort(order[first::num_blocks]) for first in range(num_blocks)]


def jackknife_blocks(
    count: int, num_blocks: int, labels: np.ndarray | None = None
) -> list[np.ndarray]:
    """random_blocks, or all indices in one block for 0, where no error is asked for.

    With labels there are so many of them at most that each has as many samples of every class.
    """
    if not num_blocks:
        return [np.arange(count)]
    if labels is not None:
        least = int(np.unique(labels, return_counts=True)[1].min())
        num_blocks = least // -(-least // num_blocks)
    return random_blocks(count, num_blocks, labels)


def fixed_labels(labels: np.ndarray) -> np.ndarray | None:
    """Labels as random_blocks takes them: None where their numbers may be chance.

    Where all classes have as many samples, or one more, they were drawn so (sample.labels). None
    for fewer than eight of a class, too, which makes too few blocks.
    """
    counts = np.unique(labels, return_counts=True)[1]
    return labels if counts.min() >= 8 and counts.max() - counts.min() <= 1 else None


def without(block: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` samples are left without a block of them. bool [count]."""
    kept = np.ones(count, bool)
    kept[block] = False
    return kept
