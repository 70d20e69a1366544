"""Improved precision and recall: how many samples look real, how much of the real is covered?

Kynkäänniemi et al. 2019. A set of features stands for the union of balls about its members, each
reaching to the k-th nearest other member.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

BLOCK = 1000  # rows of the distance matrix held at once: 200 MB against 50,000 columns


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
    reference, samples = _checked(reference, "reference", k), _checked(samples, "samples", k)
    if reference.shape[1] != samples.shape[1]:
        raise ValueError(
            f"reference has features of size {reference.shape[1]} and samples of size "
            f"{samples.shape[1]}; expected the same"
        )
    # About a common center the squares that cancel in a distance are small.
    center = reference.mean(0, dtype=np.float64)
    reference, samples = ((a - center).astype(np.float32) for a in (reference, samples))
    reference_radii, sample_radii = _squared_radii(reference, k), _squared_radii(samples, k)

    number_of = np.empty(len(samples), int)
    for number, block in enumerate(blocks):
        number_of[block] = number
    is_real = np.empty(len(samples), bool)
    is_covered = np.zeros((len(blocks), len(reference)), bool)
    for rows, distances in _squared_distances(samples, reference):
        is_real[rows] = (distances <= reference_radii).any(axis=1)
        inside = distances <= sample_radii[rows, None]
        for number in np.unique(number_of[rows]):
            is_covered[number] |= inside[number_of[rows] == number].any(axis=0)
    return Coverage(is_real, is_covered)


def _checked(features: np.ndarray, name: str, k: int) -> np.ndarray:
    features = np.asarray(features)
    if features.ndim != 2 or len(features) <= k or k < 1:
        raise ValueError(
            f"{name} has shape {features.shape} and k is {k}; expected [N, D] with N > k >= 1"
        )
    if not np.isfinite(features).all():
        raise ValueError(f"{name} holds values that are not finite; check the images")
    return features


def _squared_radii(features: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each to its k-th nearest other one. [N, D] -> [N]."""
    radii = np.empty(len(features), np.float32)
    for rows, distances in _squared_distances(features, features):
        distances.partition(k, axis=1)  # the nearest of all is the feature itself
        radii[rows] = distances[:, k]
    return radii


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of the squared distances of [N, D] and [M, D]: pairs of rows, [rows, M]."""
    a_norms, b_norms = (np.einsum("nd,nd->n", x, x) for x in (a, b))
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        distances = a[rows] @ b.T
        distances *= -2
        distances += a_norms[rows, None]
        distances += b_norms
        yield rows, np.maximum(distances, 0, out=distances)
