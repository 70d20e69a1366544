"""MIND against optimal assignments, and sets whose distance is known."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from lightningdit_jax.evaluation import mind as module
from lightningdit_jax.evaluation.error_bars import random_blocks
from lightningdit_jax.evaluation.mind import mind

RNG = np.random.default_rng(0)


@pytest.fixture
def few(monkeypatch):
    """Eight projections in two chunks."""
    monkeypatch.setattr(module, "PROJECTIONS", 8)
    monkeypatch.setattr(module, "_CHUNK", 4)


def assigned(reference, samples):
    """The same by the best assignment along each direction, each point as often as it takes."""
    dim = reference.shape[1]
    copies = np.lcm(len(reference), len(samples))
    both = [np.repeat(x, copies // len(x), axis=0) for x in (reference, samples)]
    costs = []
    for direction in np.concatenate(list(module._directions(dim))):
        a, b = (x @ direction.astype(np.float64) for x in both)
        cost = np.square(a[:, None] - b)
        costs.append(cost[linear_sum_assignment(cost)].mean())
    return 3 * dim * np.mean(costs)


@pytest.mark.parametrize("sizes", [(12, 12), (12, 18), (15, 6)])
def test_best_assignments(few, sizes):
    reference, samples = RNG.normal(size=(sizes[0], 3)), RNG.normal(0.5, 2, (sizes[1], 3))
    blocks = random_blocks(sizes[1], 3)
    found = mind(reference, samples, blocks)
    assert found.value == pytest.approx(assigned(reference, samples), rel=1e-5)
    rest = [assigned(reference, np.delete(samples, block, axis=0)) for block in blocks]
    assert found.left_out == pytest.approx(rest, rel=1e-5) and len(set(rest)) == 3


def test_sets_whose_distance_is_known():
    """Shifted by d: 3 |d|^2. Grown by s about the center: 3 (s - 1)^2 times the variance."""
    points = RNG.normal(5000, 1, (60, 4))  # far from zero, where squares of float32 cancel
    shift = np.array([3.0, 0, 0, -4])
    # The mean over 1000 directions of a squared component deviates from 1/4 by 2.8 %.
    assert mind(points, points + shift).value == pytest.approx(3 * 25, rel=0.1)
    assert mind(points, points).value == 0
    center = points.mean(0)
    grown = center + 1.5 * (points - center)
    variance = np.square(points - center).sum(1).mean()
    assert mind(points, grown).value == pytest.approx(3 * 0.25 * variance, rel=0.05)


def test_directions_are_unit_vectors_all_around():
    directions = np.concatenate(list(module._directions(5)))
    assert directions.shape == (1000, 5)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(directions.T @ directions / 1000, np.eye(5) / 5, atol=0.03)
