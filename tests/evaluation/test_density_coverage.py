"""Density and coverage against scikit-learn's neighbors, and cases counted by hand."""

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

from lightningdit_jax.evaluation import squared_distances
from lightningdit_jax.evaluation.density_coverage import density_coverage
from lightningdit_jax.evaluation.error_bars import random_blocks

RNG = np.random.default_rng(0)


def neighbors(reference, samples, k):
    """By the definition, of scikit-learn's distances."""
    nearest = NearestNeighbors(n_neighbors=k).fit(reference)
    radii = nearest.kneighbors()[0][:, -1]  # of each to others
    inside = pairwise_distances(samples, reference) < radii
    return inside.sum() / (k * len(samples)), inside.any(0).mean()


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("block", [1000, 7])
def test_neighbors_of_scikit_learn(monkeypatch, k, block):
    monkeypatch.setattr(squared_distances, "BLOCK", block)
    # Far from zero, where squares of float32 features cancel.
    reference = RNG.normal(3000, 1, (30, 3)).astype(np.float32)
    samples = RNG.normal(3000.5, 1.2, (41, 3)).astype(np.float32)
    blocks = random_blocks(len(samples), 6)
    density, coverage = density_coverage(reference, samples, blocks, k)
    as_float64 = reference.astype(np.float64), samples.astype(np.float64)
    assert (density.value, coverage.value) == pytest.approx(neighbors(*as_float64, k))
    rest = [neighbors(as_float64[0], np.delete(as_float64[1], b, axis=0), k) for b in blocks]
    assert list(zip(density.left_out, coverage.left_out)) == [pytest.approx(r) for r in rest]
    assert len(set(rest)) > 1


def test_points_on_a_line():
    """Balls of k = 1 reach 2 from 0 and 2, and 11 from 13; edges are not in them."""
    reference = np.array([[0.0], [2], [13]])
    samples = np.array([[1.0], [0.5], [2], [40]])
    density, coverage = density_coverage(reference, samples, k=1)
    # 1 and 0.5 lie in two balls, 2 in its own alone, 40 in none; that of 13 holds none.
    assert density.value == 5 / 4 and coverage.value == 2 / 3


def test_alike_sets_have_the_values_that_are_expected_of_them():
    """Density 1; coverage 1 - product of (M-1)...(M-k) / (N+M-1)...(N+M-k), lemma 2."""
    count, k = 200, 5
    found = [density_coverage(*RNG.normal(size=(2, count, 8)), k=k) for _ in range(20)]
    density, coverage = np.array([[x.value for x in pair] for pair in found]).T
    steps = np.arange(1, k + 1)
    want = 1 - np.prod((count - steps) / (2 * count - steps))
    assert abs(density.mean() - 1) < 3 * density.std() / np.sqrt(20) + 0.02
    assert coverage.mean() == pytest.approx(want, abs=0.01)


def test_what_is_refused():
    ten = np.arange(20.0).reshape(10, 2)
    with pytest.raises(ValueError, match=r"samples has shape \(5, 2\); expected .* at least 6"):
        density_coverage(ten, ten[:5])
    with pytest.raises(ValueError, match="k is 0; expected at least 1"):
        density_coverage(ten, ten, k=0)
