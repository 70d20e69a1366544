"""Measures of evenness against densities whose values are known."""

import numpy as np
import pytest

from lightningdit_jax.evaluation.uniformity import kernel_density, uniformity


def test_even_density():
    got = uniformity(np.full(64, 0.3))
    assert (got.density_cv, got.gini) == pytest.approx((0, 0), abs=1e-12)
    assert got.normalized_entropy == pytest.approx(1, abs=1e-6)


def test_half_of_the_points_hold_everything():
    got = uniformity(np.repeat([0.0, 1.0], 32))
    assert got.density_cv == pytest.approx(1)
    assert got.gini == pytest.approx(0.5)
    assert got.normalized_entropy == pytest.approx(5 / 6, abs=1e-6)  # log2 of 32 over of 64


def test_gini_is_the_mean_difference_of_pairs():
    density = np.random.default_rng(0).gamma(2.0, size=50)
    pairs = np.abs(density[:, None] - density).mean() / (2 * density.mean())
    assert uniformity(density).gini == pytest.approx(pairs)


def test_a_clump_is_less_even_than_a_grid():
    grid = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0)), -1).reshape(-1, 2)
    clump = np.random.default_rng(0).normal(size=(400, 2)) ** 3
    even, uneven = (uniformity(kernel_density(points)) for points in (grid, clump))
    assert even.density_cv < 0.3 < uneven.density_cv
    assert even.gini < uneven.gini
    assert even.normalized_entropy > uneven.normalized_entropy
