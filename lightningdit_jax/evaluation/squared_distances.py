"""Squared distances of features to each other, a block of rows at a time."""

from collections.abc import Iterator

import numpy as np

BLOCK = 1000  # rows of the distance matrix held at once: 200 MB against 50,000 columns


def checked_features(features: np.ndarray, name: str, least: int) -> np.ndarray:
    """The features. Raises ValueError unless they are finite and [N, D] with N >= least."""
    features = np.asarray(features)
    if features.ndim != 2 or len(features) < least:
        raise ValueError(
            f"{name} has shape {features.shape}; expected [N, D], N at least {least:,}"
        )
    if not np.isfinite(features).all():
        raise ValueError(f"{name} holds values that are not finite; check the images")
    return features


def checked_pair(
    reference: np.ndarray, samples: np.ndarray, least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both. Raises ValueError as checked_features, and for features of two sizes."""
    reference = checked_features(reference, "reference", least)
    samples = checked_features(samples, "samples", least)
    if reference.shape[1] != samples.shape[1]:
        raise ValueError(
            f"reference has features of size {reference.shape[1]} and samples of size "
            f"{samples.shape[1]}; expected the same"
        )
    return reference, samples


def about_center(reference: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float32 about the reference's mean, where the squares that cancel are small."""
    center = reference.mean(0, dtype=np.float64)
    reference, samples = ((a - center).astype(np.float32) for a in (reference, samples))
    return reference, samples


def squared_radii(features: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each to its k-th nearest other one. [N, D] -> [N]."""
    radii = np.empty(len(features), np.float32)
    for rows, distances in squared_distances(features, features):
        distances.partition(k, axis=1)  # the nearest of all is the feature itself
        radii[rows] = distances[:, k]
    return radii


def squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of the squared distances of [N, D] and [M, D]: pairs of rows, [rows, M]."""
    a_norms, b_norms = (np.einsum("nd,nd->n", x, x) for x in (a, b))
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        distances = a[rows] @ b.T
        distances *= -2
        distances += a_norms[rows, None]
        distances += b_norms
        yield rows, np.maximum(distances, 0, out=distances)
