import numpy as np
import pytest

from lightningdit_jax.evaluation.reconstruction import psnr, ssim

RNG = np.random.default_rng(0)
A = RNG.integers(0, 256, (3, 13, 15, 3), dtype=np.uint8)
B = np.clip(A + RNG.normal(0, 25, A.shape), 0, 255).astype(np.uint8)


def test_psnr_of_a_known_difference():
    a = np.full((2, 4, 4, 3), 100, np.uint8)
    b = np.stack([a[0] + 5, a[1] - 51])
    np.testing.assert_allclose(psnr(a, b), 20 * np.log10([255 / 5, 255 / 51]), rtol=1e-12)
    black, white = np.zeros((1, 4, 4, 1), np.uint8), np.full((1, 4, 4, 1), 255, np.uint8)
    np.testing.assert_array_equal(psnr(black, white), [0])


def test_psnr_of_identical_images_is_infinite():
    assert np.isposinf(psnr(A, A)).all()


def test_psnr_does_not_wrap_around():
    np.testing.assert_array_equal(psnr(A, B), psnr(B, A))


def ssim_directly(x, y):
    """Wang et al. 2004, equations 13 to 17, one window and one channel at a time."""
    radius = np.hypot(*np.mgrid[-5:6, -5:6])
    weights = np.exp(-(radius**2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for i, j, c in np.ndindex(x.shape[0] - 10, x.shape[1] - 10, x.shape[2]):
        p = x[i : i + 11, j : j + 11, c].astype(np.float64)
        q = y[i : i + 11, j : j + 11, c].astype(np.float64)
        mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
        var_p = (weights * (p - mean_p) ** 2).sum()
        var_q = (weights * (q - mean_q) ** 2).sum()
        covariance = (weights * (p - mean_p) * (q - mean_q)).sum()
        values.append(
            (2 * mean_p * mean_q + c1)
            * (2 * covariance + c2)
            / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))
        )
    return np.mean(values)


def test_ssim_equals_a_direct_implementation():
    want = [ssim_directly(x, y) for x, y in zip(A, B)]
    assert 0 < min(want) < max(want) < 1
    np.testing.assert_allclose(ssim(A, B), want, rtol=1e-9)


def test_ssim_invariants():
    np.testing.assert_allclose(ssim(A, A), 1, rtol=1e-12)
    np.testing.assert_allclose(ssim(A, B), ssim(B, A), rtol=1e-12)
    flipped = ssim(A[:, ::-1], B[:, ::-1]), ssim(A[:, :, ::-1], B[:, :, ::-1])
    np.testing.assert_allclose(flipped, [ssim(A, B)] * 2, rtol=1e-9)
    assert (ssim(A, 255 - A) < 0).all()
    noisier = np.clip(A + RNG.normal(0, 60, A.shape), 0, 255).astype(np.uint8)
    assert (ssim(A, noisier) < ssim(A, B)).all()


def test_ssim_of_flat_images_is_the_luminance_term():
    a, b = np.full((1, 12, 12, 1), 100, np.uint8), np.full((1, 12, 12, 1), 150, np.uint8)
    c1 = 2.55**2
    want = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    np.testing.assert_allclose(ssim(a, b), [want], rtol=1e-9)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_bad_images_are_refused(metric):
    with pytest.raises(ValueError, match="float32"):
        metric(A.astype(np.float32), B)
    with pytest.raises(ValueError, match=r"\(3, 13, 15, 3\) and \(2, 13, 15, 3\)"):
        metric(A, B[:2])
    with pytest.raises(ValueError, match=r"shape \(13, 15, 3\)"):
        metric(A[0], B[0])


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="at least 11"):
        ssim(A[:, :10], B[:, :10])
