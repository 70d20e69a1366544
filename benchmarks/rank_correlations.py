"""Rank correlations of several quantities with one, and how sure they are."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


class Correlation(NamedTuple):
    """A correlation of -1 to 1 and the 95 % interval of its bootstrap."""

    value: float
    low: float
    high: float


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rho, ties at their mean rank. [..., n] twice -> [...]; NaN where all are alike."""
    x, y = (_signs(v).sum(-1) for v in (x, y))  # twice the ranks, less their mean
    return _normalized((x * y).sum(-1), (x * x).sum(-1), (y * y).sum(-1))


def kendall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's tau-b. [..., n] twice -> [...]; NaN where all are alike."""
    x, y = (_signs(v) for v in (x, y))
    return _normalized(*((a * b).sum((-1, -2)) for a, b in ((x, y), (x, x), (y, y))))


def resampled_means(values: np.ndarray) -> np.ndarray:
    """Means over seeds in sets that might have been drawn: [variants, seeds, ...] ->
    [RESAMPLES, variants, ...].

    A set has as many variants, drawn with replacement, and of each as many of its seeds, drawn with
    replacement. What is measured of one seed stays together.
    """
    variants, seeds = values.shape[:2]
    rng = np.random.default_rng(0)
    chosen = rng.integers(variants, size=(RESAMPLES, variants))
    drawn = rng.integers(seeds, size=(RESAMPLES, variants, seeds))
    return values[chosen[..., None], drawn].mean(2)


def correlation(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray
) -> Correlation:
    """Of the means over seeds. x, y: [variants, seeds]; interval: percentiles of the bootstrap."""
    both = np.stack([x, y], -1)
    means, sets = both.mean(1), resampled_means(both)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(statistic(sets[..., 0], sets[..., 1]), [tail, 100 - tail])
    return Correlation(float(statistic(means[:, 0], means[:, 1])), float(low), float(high))


def chance_of_largest(xs: np.ndarray, y: np.ndarray) -> float:
    """What the largest |rho| of several x exceeds one time in twenty where y knows nothing of them.

    xs: [measures, variants], y: [variants]. Of permutations of y: how the x depend on each other is
    taken into account.
    """
    rng = np.random.default_rng(0)
    shuffled = np.stack([rng.permutation(y) for _ in range(RESAMPLES)])
    largest = np.stack([np.abs(spearman(x[None], shuffled)) for x in xs]).max(0)
    return float(np.percentile(largest, 100 * LEVEL))


def share_of_seeds(values: np.ndarray) -> float:
    """Variance from seed to seed over all variance of [variants, seeds]. 0 to 1, or a bit more.

    That of a single run: pooled within variants, over itself and what variants differ by.
    """
    within = values.var(1, ddof=1).mean()
    between = values.mean(1).var(ddof=1) - within / values.shape[1]
    return float(within / (within + max(between, 0.0)))


def _signs(x: np.ndarray) -> np.ndarray:
    """Which of each pair is larger. [..., n] -> [..., n, n]."""
    return np.sign(x[..., :, None] - x[..., None, :])


def _normalized(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return xy / np.sqrt(xx * yy)
