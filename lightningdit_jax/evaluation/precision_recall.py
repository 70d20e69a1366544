"""Improved precision and recall: how many samples look real, how much of the real is covered?

Kynkäänniemi et al. 2019. A set of features stands for the union of balls about its members, each
reaching to the k-th nearest other member.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lightningdit_jax.evaluation.squared_distances import (
    about_center,
    checked_pair,
    squared_distances,
    squared_radii,
)


@dataclasses.dataclass(frozen=True)
class PrecisionRecall:
    """precision: share of samples in the reference's balls. recall: the converse. 0 to 1."""

    precision: float
    recall: float


@dataclasses.dataclass(frozen=True)
class Coverage:
    """is_real: which samples lie in the reference's balls, bool [N]. is_covered: which of the
    reference lie in balls of the samples of each block, bool [blocks, M].
    """

    is_real: np.ndarray
    is_covered: np.ndarray

    def whole(self) -> PrecisionRecall:
        """Of all samples."""
        return PrecisionRecall(float(self.is_real.mean()), float(self.is_covered.any(0).mean()))

    def without(self, number: int, block: np.ndarray) -> PrecisionRecall:
        """Without the block of this number, whose samples' indices are `block`.

        The balls of the other samples stay as they are with it.
        """
        is_real = np.delete(self.is_real, block)
        is_covered = np.delete(self.is_covered, number, axis=0).any(0)
        return PrecisionRecall(float(is_real.mean()), float(is_covered.mean()))


def precision_recall(reference: np.ndarray, samples: np.ndarray, k: int = 3) -> PrecisionRecall:
    """Of samples [N, D] against reference [M, D]; N and M must exceed k.

    ADM (Dhariwal & Nichol 2021) takes k = 3, Inception's pool features, 10,000 reference images and
    50,000 samples. Its evaluator rounds distances to float16; these are float32, so that results
    differ in the third digit. Raises ValueError for other shapes, or values that are not finite.
    """
    return coverage(reference, samples, [np.arange(len(samples))], k).whole()


def coverage(
    reference: np.ndarray, samples: np.ndarray, blocks: Sequence[np.ndarray], k: int = 3
) -> Coverage:
    """What precision and recall are shares of; blocks: of the samples' indices, each in one.

    Arrays, k and what is raised: as for precision_recall.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    reference, samples = about_center(*checked_pair(reference, samples, k + 1))
    reference_radii, sample_radii = squared_radii(reference, k), squared_radii(samples, k)

    number_of = np.empty(len(samples), int)
    for number, block in enumerate(blocks):
        number_of[block] = number
    is_real = np.empty(len(samples), bool)
    is_covered = np.zeros((len(blocks), len(reference)), bool)
    for rows, distances in squared_distances(samples, reference):
        is_real[rows] = (distances <= reference_radii).any(axis=1)
        inside = distances <= sample_radii[rows, None]
        for number in np.unique(number_of[rows]):
            is_covered[number] |= inside[number_of[rows] == number].any(axis=0)
    return Coverage(is_real, is_covered)
