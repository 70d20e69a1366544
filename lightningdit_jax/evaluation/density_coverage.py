"""Density and coverage: how real samples look, and how much of the real they reach.

Naeem et al. 2020, who mend what outliers do to precision and recall: balls are those of the real
images alone, and a sample counts by how many of them it lies in.
"""

from collections.abc import Sequence

import numpy as np

from lightningdit_jax.evaluation.error_bars import LeftOut, without
from lightningdit_jax.evaluation.squared_distances import (
    about_center,
    checked_pair,
    squared_distances,
    squared_radii,
)

NEIGHBORS = 5  # Naeem et al. 2020, sec. 4


def density_coverage(
    reference: np.ndarray,
    samples: np.ndarray,
    blocks: Sequence[np.ndarray] = (),
    k: int = NEIGHBORS,
) -> tuple[LeftOut, LeftOut]:
    """Density and coverage of samples [N, D] against reference [M, D]; N and M exceed k.

    Each of the reference has a ball that reaches to its k-th nearest other one, without its edge.
    density: balls that a sample lies in, over k, on average; about 1 where both sets are alike,
    and more where samples lie where the reference is dense. coverage: share of the balls that hold
    a sample, 0 to 1; of sets that are alike it depends on N and M (loc. cit., lemma 2): compare
    evaluations of as many. blocks: of the samples' indices, each in one, for a jackknife. Raises
    ValueError for other shapes, or values that are not finite.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    reference, samples = about_center(*checked_pair(reference, samples, k + 1))
    radii = squared_radii(reference, k)
    count = len(samples)
    number_of = np.zeros(count, int)
    for number, block in enumerate(blocks):
        number_of[block] = number
    num_balls = np.empty(count)
    is_reached = np.zeros((max(len(blocks), 1), len(reference)), bool)
    for rows, distances in squared_distances(samples, reference):
        inside = distances < radii
        num_balls[rows] = inside.sum(axis=1)
        for number in np.unique(number_of[rows]):
            is_reached[number] |= inside[number_of[rows] == number].any(axis=0)
    density = LeftOut(
        float(num_balls.mean() / k),
        [float(num_balls[without(block, count)].mean() / k) for block in blocks],
    )
    reached = is_reached.sum(axis=0)  # how many blocks have a sample in the ball
    coverage = LeftOut(
        float((reached > 0).mean()),
        [float((reached > is_reached[number]).mean()) for number in range(len(blocks))],
    )
    return density, coverage
