"""Fréchet distance against closed forms and another algorithm; moments against numpy."""

import numpy as np
import pytest
import scipy.linalg

from lightningdit_jax.evaluation.frechet import Moments, frechet_distance


def random_covariance(dim, rank, seed):
    root = np.random.default_rng(seed).normal(size=(dim, rank))
    return root @ root.T / rank


def test_one_dimension():
    got = frechet_distance([1.0], [[4.0]], [-2.0], [[9.0]])
    assert got == pytest.approx((1 + 2) ** 2 + (2 - 3) ** 2)


def test_commuting_covariances():
    a, b = np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 2.0])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    covariances = [rotation @ np.diag(v) @ rotation.T for v in (a, b)]
    got = frechet_distance(np.zeros(3), covariances[0], np.zeros(3), covariances[1])
    assert got == pytest.approx(np.square(np.sqrt(a) - np.sqrt(b)).sum())


@pytest.mark.parametrize("ranks", [(12, 12), (12, 5), (4, 5)])
def test_general_covariances_equal_the_matrix_square_root(ranks):
    a, b = (random_covariance(12, rank, seed) for seed, rank in enumerate(ranks))
    root = scipy.linalg.sqrtm(a @ b + 1e-12 * np.eye(12)).real
    want = np.trace(a + b - 2 * root)
    got = frechet_distance(np.zeros(12), a, np.zeros(12), b)
    assert got == pytest.approx(want, abs=1e-4)
    assert frechet_distance(np.zeros(12), b, np.zeros(12), a) == pytest.approx(got, abs=1e-6)


def test_equal_sets_have_distance_zero():
    a = random_covariance(40, 10, 0)
    mean = np.arange(40.0)
    # Eigenvalues that are zero come out as some 1e-16, whose roots are 1e-8.
    assert abs(frechet_distance(mean, a, mean, a)) < 40 * 1e-7


@pytest.mark.parametrize("cuts", [(0, 1, 50), (17,), (10, 20, 30)])
def test_moments_of_blocks_merge_to_those_of_the_whole(cuts):
    # Far from zero, where uncentred sums lose their digits.
    x = np.random.default_rng(0).normal(1e4, 1.0, (50, 6)).astype(np.float32)
    merged = Moments.empty(6)
    for block in np.split(x, cuts):
        merged = merged.merge(Moments.of(block))
    assert merged.count == 50
    np.testing.assert_allclose(merged.mean, x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, np.cov(x.astype(np.float64).T), rtol=1e-9)


def test_bad_moments_are_named():
    with pytest.raises(ValueError, match="expected twice"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="found 1"):
        _ = Moments.of(np.zeros((1, 3))).covariance
