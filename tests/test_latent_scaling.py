"""The one type that says how latents are scaled."""

import jax.numpy as jnp
import numpy as np
import pytest

from lightningdit_jax.latent_scaling import LatentScaling

MEAN, STD = np.float32([0.5, -1.5, 2.0]), np.float32([0.1, 2.0, 3.3])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"mean": MEAN, "std": STD[:2]}, "mean of 3 and a std of 2"),
        ({"mean": MEAN}, "of mean alone"),
        ({"std": STD}, "of std alone"),
        ({"mean": [], "std": []}, "mean of 0"),
        ({"mean": MEAN, "std": [1, 0, 1]}, r"std 0\.0 in channel 1 of 3"),
        ({"mean": MEAN, "std": [1, 1, -2]}, r"std -2\.0 in channel 2 of 3"),
        ({"mean": MEAN, "std": [1, np.inf, 1]}, "std inf in channel 1"),
        ({"mean": [np.nan, 0, 0], "std": STD}, "mean nan in channel 0"),
        ({"mean": [0, 0, 1e39], "std": STD}, "mean inf in channel 2"),  # in float32
        ({"multiplier": 0.0}, r"multiplier is 0\.0"),
        ({"multiplier": np.nan}, "multiplier is nan"),
        ({"multiplier": np.inf}, "multiplier is inf"),
        ({"multiplier": -1.0}, r"multiplier is -1\.0"),
    ],
)
def test_what_no_latents_are_scaled_by_is_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        LatentScaling(**fields)


@pytest.mark.parametrize("module", [np, jnp])
def test_invert_undoes_normalize(module):
    stored = np.random.default_rng(0).normal(size=(5, 3, 2, 4)).astype(np.float32)
    scaling = LatentScaling(MEAN.reshape(1, 3, 1, 1), STD.reshape(1, 3, 1, 1), 0.18215)
    seen = scaling.normalize(module.asarray(stored))
    assert seen.shape == (5, 2, 4, 3) and seen.dtype == np.float32
    wide = (stored.astype(np.float64).transpose(0, 2, 3, 1) - MEAN) / STD * 0.18215
    np.testing.assert_allclose(seen, wide, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(scaling.invert(seen), stored.transpose(0, 2, 3, 1), atol=1e-6)


def test_meta_there_and_back_is_bit_identical():
    for scaling in (LatentScaling(MEAN, STD, 0.5), LatentScaling(), LatentScaling(multiplier=2)):
        assert LatentScaling.from_meta(scaling.to_meta()) == scaling
        assert hash(scaling) == hash(LatentScaling.from_meta(scaling.to_meta()))
    np.testing.assert_array_equal(np.float32(LatentScaling(MEAN, STD).std), STD)
    assert LatentScaling.from_meta(None) is None


def test_channels_have_to_be_those_of_the_latents():
    scaling = LatentScaling(MEAN, STD)
    scaling.check_channels(3, "latents")
    with pytest.raises(ValueError, match=r"WHERE: .* 3 channels, but the latents have 4"):
        scaling.check_channels(4, "WHERE")
    LatentScaling(multiplier=0.5).check_channels(4, "any number will do")


@pytest.mark.parametrize(
    ("mean", "std", "reason"),
    [
        (MEAN * 1j, STD, r"mean of type complex64"),
        (MEAN, np.ones(3, bool), "std of type bool"),
        (None, None, "mean of type object"),
        (np.ones((2, 4)), np.ones(8), r"shape \[2, 4\]"),
        ({"a": 1}, STD, "mean of type object"),
        ("x", STD, "mean of type <U1"),
    ],
)
def test_what_is_no_statistics_is_refused(mean, std, reason):
    """A bool or complex array, or none at all, used to scale latents."""
    with pytest.raises(ValueError, match=reason):
        LatentScaling.of_arrays(mean, std)
    shaped = LatentScaling.of_arrays(MEAN.reshape(1, 3, 1, 1), STD.astype(np.float64))
    assert shaped == LatentScaling(MEAN, STD)


def test_a_multiplier_that_vanishes_in_float32_is_refused():
    with pytest.raises(ValueError, match="multiplier is 1e-50"):
        LatentScaling(multiplier=1e-50)
