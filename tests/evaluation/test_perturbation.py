import math

import jax
import numpy as np
import pytest

from lightningdit_jax.evaluation.perturbation import local_continuity, moved, slope_per_doubling

LATENTS, NOISE = np.asarray(jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2)))


def test_a_step_along_noise_is_a_share_of_the_latents_own_length():
    step = np.asarray(moved(LATENTS, 7 * NOISE, 0.5, True)) - LATENTS
    for one, latent, noise in zip(step, LATENTS, NOISE):
        assert np.linalg.norm(one) == pytest.approx(0.5 * np.linalg.norm(latent), rel=1e-5)
        cosine = np.vdot(one, noise) / np.linalg.norm(one) / np.linalg.norm(noise)
        assert cosine == pytest.approx(1, abs=1e-5)


def test_noise_is_added_as_it_is():
    got = moved(LATENTS, NOISE, 0.25, False)
    np.testing.assert_allclose(got, LATENTS + 0.25 * NOISE, rtol=1e-6)


def test_an_error_that_grows_with_sigma_loses_six_decibels_a_doubling():
    psnr = {sigma: -20 * math.log10(3 * sigma) for sigma in (0.125, 0.25, 0.5, 1.0)}
    assert slope_per_doubling(psnr) == pytest.approx(-20 * math.log10(2))


def test_continuity_weighs_shares_by_their_inverses():
    # 4 of 1 / share times share, over the sum of 1 / share.
    shares = (0.1, 0.5, 1.0, 2.0)
    assert local_continuity({s: 3 * s for s in shares}) == pytest.approx(3 * 4 / 13.5)
