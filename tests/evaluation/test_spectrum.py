import numpy as np
import pytest
from scipy.fft import idctn

from lightningdit_jax.evaluation import spectrum
from lightningdit_jax.evaluation.spectrum import (
    effective_rank,
    high_frequency_share,
    power_spectrum,
    spectral_slope,
)

RNG = np.random.default_rng(0)


def with_power(amplitude, count=600, dim=2):
    """Latents whose cosine coefficients have these deviations. [N, h, w, d]."""
    coefficients = amplitude[None, :, :, None] * RNG.normal(size=(count, *amplitude.shape, dim))
    return idctn(coefficients, axes=(1, 2), norm="ortho").astype(np.float32)


def test_the_power_of_all_frequencies_is_that_of_all_positions(monkeypatch):
    latents = RNG.normal(2, 3, (11, 4, 6, 3))
    monkeypatch.setattr(spectrum, "BLOCK", 4)
    power = power_spectrum(latents)
    assert power.sum() == pytest.approx(np.square(latents).mean() * 24)
    assert power[0, 0] == pytest.approx(np.square(latents.mean((1, 2))).mean() * 24)


@pytest.mark.parametrize("slope", [0.0, -2.0])
def test_the_slope_of_a_power_law_is_found(slope):
    rows, columns = np.indices((8, 8)) / 8
    radius = np.hypot(rows, columns)
    radius[0, 0] = 1
    power = power_spectrum(with_power(radius ** (slope / 2)))
    assert spectral_slope(power) == pytest.approx(slope, abs=0.02)
    if slope == 0:  # 48 of 63 frequencies are high, of white noise with as much power each
        assert high_frequency_share(power) == pytest.approx(48 / 63, abs=0.01)


def test_a_latent_of_half_the_sides_has_no_high_frequencies():
    amplitude = np.zeros((8, 8))
    amplitude[:4, :4] = 1
    assert high_frequency_share(power_spectrum(with_power(amplitude, 5))) < 1e-10
    assert high_frequency_share(power_spectrum(with_power(1 - amplitude, 5))) > 1 - 1e-10


def test_one_position_has_no_slope():
    with pytest.raises(ValueError, match=r"\(1, 1\) has no slope"):
        spectral_slope(np.ones((1, 1)))


def test_effective_rank_counts_directions_that_are_used_alike():
    basis = np.linalg.qr(RNG.normal(size=(40, 6)))[0]
    assert effective_rank(basis) == pytest.approx(1)
    turned = basis[:, :2] @ np.linalg.qr(RNG.normal(size=(6, 6)))[0][:2]
    assert effective_rank(turned) == pytest.approx(2 / 6)
    # Singular values 3 and 1: the entropy of 3/4 and 1/4.
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert effective_rank(basis[:, :2] * [3, 1]) == pytest.approx(np.exp(entropy) / 2)
