"""Fréchet distance of two sets of features, each taken for a Gaussian. Heusel et al. 2017.

Everything in float64 on the host. Sums are centered: the difference of a mean of products and a
product of means loses all digits in float32, and many in float64.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

BLOCK = 4096  # features that are multiplied at once: 64 MB of 2048 numbers


@dataclasses.dataclass(frozen=True)
class Moments:
    """count of features, their mean [D], and scatter [D, D]: the sum of centered outer products."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, dim: int) -> "Moments":
        """Of no features."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """Of features [N, D] of any float type, some BLOCK at a time in float64."""
        whole = cls.empty(features.shape[1])
        for start in range(0, len(features), BLOCK):
            block = np.asarray(features[start : start + BLOCK], np.float64)
            mean = block.mean(0)
            centered = block - mean
            whole = whole.merge(cls(len(block), mean, centered.T @ centered))
        return whole

    def merge(self, other: "Moments") -> "Moments":
        """Of both sets together. Chan et al. 1983."""
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        between = np.outer(delta, delta) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    def without(self, part: "Moments") -> "Moments":
        """Of the others, where this is of both: what `merge` undoes."""
        count = self.count - part.count
        mean = (self.count * self.mean - part.count * part.mean) / count
        delta = part.mean - mean
        between = np.outer(delta, delta) * (count * part.count / self.count)
        return Moments(count, mean, self.scatter - part.scatter - between)

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased covariance [D, D], as numpy.cov. Raises ValueError for fewer than two."""
        if self.count < 2:
            raise ValueError(f"a covariance needs two features or more; found {self.count}")
        return self.scatter / (self.count - 1)

    @property
    def gaussian(self) -> "Gaussian":
        """Of the same mean and covariance."""
        return Gaussian(self.mean, self.covariance)


class MomentsStream:
    """Moments of features that come a batch at a time; holds some BLOCK of them at most."""

    def __init__(self, dim: int):
        self._moments, self._dim = Moments.empty(dim), dim
        self._waiting: list[np.ndarray] = []

    def add(self, features: np.ndarray) -> None:
        """features: [b, D]. Raises ValueError for another D."""
        if features.ndim != 2 or features.shape[1] != self._dim:
            raise ValueError(f"features have shape {features.shape}; expected [b, {self._dim}]")
        self._waiting.append(features)
        if sum(map(len, self._waiting)) >= BLOCK:
            self._take_waiting()

    def moments(self) -> Moments:
        """Of all so far."""
        if self._waiting:
            self._take_waiting()
        return self._moments

    def _take_waiting(self) -> None:
        self._moments = self._moments.merge(Moments.of(np.concatenate(self._waiting)))
        self._waiting = []


class Gaussian(NamedTuple):
    """mean [D] and covariance [D, D], float64."""

    mean: np.ndarray
    covariance: np.ndarray


def frechet_distance(
    mean1: np.ndarray, covariance1: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray
) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2)). Dowson & Landau 1982.

    Raises ValueError if the sizes differ or a number is not finite.
    """
    return distance_from(Gaussian(mean1, covariance1))(Gaussian(mean2, covariance2))


def distance_from(reference: Gaussian) -> Callable[[Gaussian], float]:
    """The Fréchet distance of other Gaussians from one, whose root is taken once.

    With C1 = A A^T, C1 C2 has the eigenvalues of A^T C2 A, which is symmetric: no square root of a
    general matrix, which fails or turns complex for singular covariances, is needed.
    What it raises, and the distance: as frechet_distance.
    """
    mean1, covariance1 = _checked(*reference, len(reference.mean))
    values, vectors = np.linalg.eigh(covariance1)
    root = vectors * np.sqrt(values.clip(0))

    def distance(other: Gaussian) -> float:
        mean2, covariance2 = _checked(*other, len(mean1))
        product = root.T @ covariance2 @ root
        eigenvalues = np.linalg.eigvalsh((product + product.T) / 2).clip(0)
        trace = np.trace(covariance1) + np.trace(covariance2) - 2 * np.sqrt(eigenvalues).sum()
        return float(np.square(mean1 - mean2).sum() + trace)

    return distance


def _checked(mean: np.ndarray, covariance: np.ndarray, dim: int) -> Gaussian:
    mean, covariance = (np.asarray(a, np.float64) for a in (mean, covariance))
    if mean.shape != (dim,) or covariance.shape != (dim, dim):
        raise ValueError(
            f"moments have shapes {mean.shape}, {covariance.shape}; expected [D], [D, D] of D {dim}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError("moments hold values that are not finite; check the features")
    return Gaussian(mean, covariance)
