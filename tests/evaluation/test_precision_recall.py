"""Precision and recall against brute force and cases that can be counted by hand."""

import numpy as np
import pytest

from lightningdit_jax.evaluation import squared_distances
from lightningdit_jax.evaluation.precision_recall import PrecisionRecall, precision_recall


def brute_force(reference, samples, k):
    """One distance at a time, in float64."""

    def distance(a, b):
        return np.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(a, b)))

    def radii(points):
        others = ([q for j, q in enumerate(points) if j != i] for i in range(len(points)))
        return [sorted(distance(p, q) for q in rest)[k - 1] for p, rest in zip(points, others)]

    def inside(points, centers):
        balls = list(zip(centers, radii(centers)))
        return np.mean([any(distance(p, c) <= r for c, r in balls) for p in points])

    return PrecisionRecall(inside(samples, reference), inside(reference, samples))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("block", [1000, 7])
def test_brute_force(monkeypatch, k, block):
    monkeypatch.setattr(squared_distances, "BLOCK", block)
    rng = np.random.default_rng(0)
    # Far from zero, where squares of float32 features cancel.
    reference = rng.normal(3000, 1, (30, 3)).astype(np.float32)
    samples = rng.normal(3000.5, 1.2, (41, 3)).astype(np.float32)
    want = brute_force(reference, samples, k)
    assert 0 < want.precision < 1 and 0 < want.recall < 1
    assert precision_recall(reference, samples, k) == want


def test_points_on_a_line():
    # Radius 2 about each of 0..9 at k = 3, but 3 about the ends; reached from -3 to 12 inclusive.
    reference = np.arange(10.0)[:, None]
    samples = np.array([-3.25, -3, 4.5, 12, 12.25, 40])[:, None]
    got = precision_recall(reference, samples)
    assert got.precision == 3 / 6
    # The ball of 4.5 reaches 7.75 to each side, to 12.25, and so holds every reference point.
    assert got.recall == 1


def test_missing_modes_cost_recall_and_stray_samples_cost_precision():
    rng = np.random.default_rng(1)
    left, right = rng.normal(0, 1, (40, 4)), rng.normal(50, 1, (40, 4))
    both = np.concatenate([left, right])
    assert precision_recall(both, left) == PrecisionRecall(1.0, 0.5)
    assert precision_recall(left, both) == PrecisionRecall(0.5, 1.0)
    assert precision_recall(left, right) == PrecisionRecall(0.0, 0.0)
    assert precision_recall(both, both[::-1]) == PrecisionRecall(1.0, 1.0)


def test_bad_features_are_named():
    ten = np.arange(20.0).reshape(10, 2)
    with pytest.raises(ValueError, match=r"samples has shape \(3, 2\); expected .* N at least 4"):
        precision_recall(ten, ten[:3])
    with pytest.raises(ValueError, match="features of size 2 and samples of size 1"):
        precision_recall(ten, ten[:, :1])
    with pytest.raises(ValueError, match="reference holds values that are not finite"):
        precision_recall(ten * np.nan, ten)
