"""Monge Inception Distance: the sliced Wasserstein distance of two sets of features.

Berthet et al. 2026, arXiv 2605.06797.
"""

import concurrent.futures
import os
from collections.abc import Iterator, Sequence

import numpy as np

from lightningdit_jax.evaluation.error_bars import LeftOut, without
from lightningdit_jax.evaluation.squared_distances import about_center, checked_pair

PROJECTIONS = 1000  # as torch-fidelity has it
_CHUNK = 50  # projections sorted at once


def mind(reference: np.ndarray, samples: np.ndarray, blocks: Sequence[np.ndarray] = ()) -> LeftOut:
    """MIND of samples [N, D] from reference [M, D].

    3 D times the mean, over PROJECTIONS random directions, of the squared 2-Wasserstein distance
    of both sets' projections, which is that of sorted values. Directions are the same in every
    evaluation. Where N and M differ it is the distance of the two empirical distributions, of all
    there is; torch-fidelity draws as many of the larger set. Falls like 1/N + 1/M to that of
    infinitely many: compare evaluations of as many. blocks: of the samples' indices, each in one,
    for a jackknife. Raises ValueError for other shapes, or values that are not finite.
    """
    reference, samples = about_center(*checked_pair(reference, samples, 1))
    count, dim = samples.shape
    kept = [np.ones(count, bool), *(without(block, count) for block in blocks)]

    def of_chunk(directions: np.ndarray) -> np.ndarray:
        """Sums over a chunk of directions, of the whole and without each block."""
        real = np.sort(directions @ reference.T, axis=1)
        drawn = directions @ samples.T
        order = np.argsort(drawn, axis=1)
        drawn = np.take_along_axis(drawn, order, axis=1)
        rests = (drawn[is_kept[order]].reshape(len(drawn), -1) for is_kept in kept)
        return np.array([_squared_wasserstein(rest, real).sum() for rest in rests])

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        totals = sum(pool.map(of_chunk, _directions(dim)))
    value, *left_out = (3 * dim / PROJECTIONS * totals).tolist()
    return LeftOut(value, left_out)


def _directions(dim: int) -> Iterator[np.ndarray]:
    """Unit vectors float32 [_CHUNK, D], PROJECTIONS in all, always the same for a D."""
    rng = np.random.default_rng(0)
    for _ in range(0, PROJECTIONS, _CHUNK):
        directions = rng.standard_normal((_CHUNK, dim))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        yield directions.astype(np.float32)


def _squared_wasserstein(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared 2-Wasserstein distance of rows of sorted values. [P, n], [P, m] -> float64 [P].

    The integral over quantiles; between two breaks, of which n m are whole numbers, both have one.
    """
    n, m = a.shape[1], b.shape[1]
    if n == m:
        return np.square(a - b).mean(axis=1, dtype=np.float64)
    breaks = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    widths = np.diff(breaks, prepend=0) / (n * m)
    last = breaks - 1
    return np.square(a[:, last // m] - b[:, last // n]).astype(np.float64) @ widths
