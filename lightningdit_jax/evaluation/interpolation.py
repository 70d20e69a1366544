"""Latents between neighbors, whose images iFID is of. Xu et al. 2026, arXiv 2603.05630."""

import math

import numpy as np


def spherical_midpoint(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Halfway between latents on the arc, each latent one vector. [N, ...] twice -> the same.

    Spherical interpolation at 1/2, (a + b) / (2 cos(angle / 2)): the weights are those of the
    directions, as in the authors' code, and lengths are left as they are. Opposite ones give 0.
    """
    flat_a, flat_b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (a, b))
    lengths = np.linalg.norm(flat_a, axis=1) * np.linalg.norm(flat_b, axis=1)
    cosine = (flat_a * flat_b).sum(1) / np.where(lengths > 0, lengths, 1)
    half = np.sqrt(((1 + cosine) / 2).clip(0))  # the cosine of half the angle
    middle = (flat_a + flat_b) / (2 * np.maximum(half, 1e-6))[:, None]
    return middle.astype(np.float32).reshape(a.shape)


def drawn_neighbors(latents: np.ndarray, neighbors: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """One neighbor of each latent, drawn by a softmax of minus their mean squared distances.

    latents [N, ...], neighbors [N, k, ...], uniform [N] in [0, 1) decides -> [N, ...]. As the
    authors' code draws among the ten most similar. Distances are small and nearly the same, so
    that it is nearly any of the k.
    """
    size = math.prod(latents.shape[1:])
    difference = neighbors - latents[:, None]
    distance = np.square(difference.reshape(*neighbors.shape[:2], size)).mean(-1, dtype=np.float64)
    weights = np.exp(distance.min(axis=1, keepdims=True) - distance)
    cumulative = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
    chosen = (uniform[:, None] >= cumulative[:, :-1]).sum(1)
    return neighbors[np.arange(len(latents)), chosen]
