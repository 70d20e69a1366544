"""Nearest-neighbor distances: do samples copy the training set, or one another?

Samples much closer to the training set than held-out data is are memorized. Samples of a class
much closer to one another than real data of that class is have collapsed onto few modes.
"""

import math

import numpy as np

BLOCK = 1024  # rows of the distance matrix held at once


def nearest_distances(queries: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """L2 distance of each query to its nearest reference. [Q, ...], [R, ...] -> float64 [Q].

    Items of any shape, flattened. Raises ValueError if their sizes differ or reference is empty.
    """
    return _nearest(_flatten(queries), _flatten(reference), exclude_self=False)


def within_class_nearest(queries: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """L2 distance of each query to the nearest other one of its class. [Q, ...], [Q] -> [Q].

    Raises ValueError if the lengths differ, or naming the classes that have a single member.
    """
    queries, labels = _flatten(queries), np.asarray(labels)
    if labels.shape != queries.shape[:1]:
        raise ValueError(
            f"labels have shape {labels.shape} for {len(queries)} queries; expected one each"
        )
    classes, counts = np.unique(labels, return_counts=True)
    if (counts == 1).any():
        raise ValueError(
            f"classes {classes[counts == 1].tolist()} have one member, which has no neighbor; "
            "expected at least two of each class"
        )
    distances = np.empty(len(queries))
    for label in classes:
        members = queries[labels == label]
        distances[labels == label] = _nearest(members, members, exclude_self=True)
    return distances


def _flatten(items: np.ndarray) -> np.ndarray:
    """[N, ...] -> float64 [N, D]."""
    items = np.asarray(items, np.float64)
    return items.reshape(len(items), math.prod(items.shape[1:]))


def _nearest(queries_QD: np.ndarray, reference_RD: np.ndarray, exclude_self: bool) -> np.ndarray:
    """Distance to the nearest row of reference; exclude_self when both are the same rows."""
    if queries_QD.shape[1] != reference_RD.shape[1] or not len(reference_RD):
        raise ValueError(
            f"queries have shape {queries_QD.shape} and reference {reference_RD.shape} (flattened);"
            " expected items of the same size, and at least one reference"
        )
    norms_R = np.einsum("rd,rd->r", reference_RD, reference_RD)
    distances = np.empty(len(queries_QD))
    for start in range(0, len(queries_QD), BLOCK):
        block = queries_QD[start : start + BLOCK]
        ranking_QR = norms_R - 2 * block @ reference_RD.T  # squared distance less |query|²
        if exclude_self:
            rows = np.arange(len(block))
            ranking_QR[rows, start + rows] = np.inf
        # The expanded square only ranks: its rounding would hide exact copies.
        nearest = reference_RD[ranking_QR.argmin(axis=1)]
        distances[start : start + BLOCK] = np.linalg.norm(block - nearest, axis=1)
    return distances
