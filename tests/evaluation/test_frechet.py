"""Fréchet distance against closed forms and another algorithm; moments against numpy and files."""

import numpy as np
import pytest
import scipy.linalg

from lightningdit_jax.evaluation import frechet
from lightningdit_jax.evaluation.frechet import Gaussian, Moments, MomentsStream, frechet_distance
from lightningdit_jax.evaluation.reference_moments import ReferenceMoments, moments_from_npz


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


def test_isotropic_covariances():
    mean, dim = np.linspace(-1, 1, 30), 30
    got = frechet_distance(np.zeros(dim), 4 * np.eye(dim), mean, 0.25 * np.eye(dim))
    assert got == pytest.approx(np.square(mean).sum() + dim * (2 - 0.5) ** 2, rel=1e-12)


def test_a_singular_covariance_against_none():
    """A point has no covariance at all: what remains is the other's trace."""
    a, zero = random_covariance(20, 3, 0), np.zeros((20, 20))
    for pair in ((a, zero), (zero, a)):
        got = frechet_distance(np.zeros(20), pair[0], np.zeros(20), pair[1])
        assert got == pytest.approx(np.trace(a), rel=1e-9)


def test_features_equal_the_matrix_square_root():
    """More features than dimensions, correlated, as scipy's general square root has it."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(24, 24))
    a, b = rng.normal(size=(200, 24)) @ mixing, rng.normal(0.3, 1.2, (150, 24)) @ mixing
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))
    want = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    got = frechet_distance(*Moments.of(a).gaussian, *Moments.of(b).gaussian)
    assert got == pytest.approx(want.real, rel=1e-9)


@pytest.mark.parametrize("counts", [(20, 30), (200, 20), (2, 2)])
def test_fewer_features_than_dimensions(counts):
    """Covariances of low rank, by the singular values of the samples themselves."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(i, 1 + i, (count, 64)) for i, count in enumerate(counts))
    centered = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    trace = sum(np.square(x).sum() for x in centered)
    cross = np.linalg.svd(centered[0] @ centered[1].T, compute_uv=False).sum()
    want = np.square(a.mean(0) - b.mean(0)).sum() + trace - 2 * cross
    got = frechet_distance(*Moments.of(a).gaussian, *Moments.of(b).gaussian)
    assert got == pytest.approx(want, rel=1e-6)


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
    # Far from zero, where uncentered sums lose their digits.
    x = np.random.default_rng(0).normal(1e4, 1.0, (50, 6)).astype(np.float32)
    merged = Moments.empty(6)
    for block in np.split(x, cuts):
        merged = merged.merge(Moments.of(block))
    assert merged.count == 50
    np.testing.assert_allclose(merged.mean, x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, np.cov(x.astype(np.float64).T), rtol=1e-9)


def test_a_stream_has_the_moments_of_the_whole(monkeypatch):
    monkeypatch.setattr(frechet, "BLOCK", 16)
    x = np.random.default_rng(0).normal(100, 1.0, (73, 5)).astype(np.float32)
    stream = MomentsStream(5)
    for batch in np.split(x, [0, 3, 20, 21, 60]):
        stream.add(batch)
    assert stream.moments().count == 73
    for got in (stream.moments(), Moments.of(x)):
        np.testing.assert_allclose(got.mean, x.astype(np.float64).mean(0), rtol=1e-12)
        np.testing.assert_allclose(got.covariance, np.cov(x.astype(np.float64).T), rtol=1e-9)
    stream.add(x[:2])
    assert stream.moments().count == 75
    assert MomentsStream(5).moments().count == 0
    with pytest.raises(ValueError, match=r"shape \(2, 4\); expected \[b, 5\]"):
        stream.add(x[:2, :4])


def test_bad_moments_are_named():
    with pytest.raises(ValueError, match="of D 2"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="found 1"):
        _ = Moments.of(np.zeros((1, 3))).covariance


def reference_arrays():
    rng = np.random.default_rng(0)
    pool, spatial = rng.normal(size=(9, 4)), rng.normal(size=(9, 3))
    return {
        "mu": pool.mean(0),
        "sigma": np.cov(pool.T),
        "mu_s": spatial.mean(0).astype(np.float32),
        "sigma_s": np.cov(spatial.T),
    }


def test_reference_moments_are_read_without_the_images(tmp_path):
    arrays = reference_arrays()
    # An array of objects would have to be unpickled: reading it raises.
    np.savez(tmp_path / "ref.npz", **arrays, arr_0=np.array([{}], object))
    reference = moments_from_npz(str(tmp_path / "ref.npz"))
    assert frechet_distance(*reference.pool, arrays["mu"] + 2, arrays["sigma"]) == pytest.approx(16)
    np.testing.assert_array_equal(reference.spatial.mean, arrays["mu_s"])
    np.testing.assert_array_equal(reference.spatial.covariance, arrays["sigma_s"])
    values = (*reference.pool, *reference.spatial)
    assert {a.dtype for a in values} == {np.dtype(np.float64)}
    assert reference.extractor is None


def test_a_reference_of_ours_says_what_made_it(tmp_path):
    arrays = reference_arrays()
    reference = ReferenceMoments(
        Gaussian(arrays["mu"], arrays["sigma"]),
        Gaussian(arrays["mu_s"], arrays["sigma_s"]),
        {"weights": "abc"},
    )
    np.savez(tmp_path / "ref.npz", **reference.to_arrays())
    again = moments_from_npz(str(tmp_path / "ref.npz"))
    assert again.extractor == {"weights": "abc"}
    np.testing.assert_array_equal(again.spatial.covariance, arrays["sigma_s"])


def test_other_reference_files_are_refused(tmp_path):
    path = tmp_path / "ref.npz"
    with pytest.raises(FileNotFoundError):
        moments_from_npz(str(path))
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"not an \.npz file; expected a reference file"):
        moments_from_npz(str(path))
    np.savez(path, arr_0=np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"lacks \['mu', .*\] and has \['arr_0'\]"):
        moments_from_npz(str(path))
    np.savez(path, **reference_arrays() | {"sigma_s": np.zeros((4, 4))})
    with pytest.raises(ValueError, match=r"mu_s, sigma_s have shapes \(3,\), \(4, 4\)"):
        moments_from_npz(str(path))
    np.savez(path, **reference_arrays() | {"mu": np.array([{}], object)})
    with pytest.raises(ValueError, match="claims to be object"):
        moments_from_npz(str(path))
