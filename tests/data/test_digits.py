"""The digits against scikit-learn's own arrays."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lightningdit_jax.data.digits import Digits, digits_to_8x8


def rgb(digits: Digits) -> np.ndarray:
    return np.stack([np.asarray(digits.image(i)) for i in range(len(digits))])


def test_splits_are_stratified_disjoint_and_complete():
    train, test, everything = Digits("train", 8), Digits("test", 8), Digits("all", 8)
    assert (len(train), len(test), len(everything)) == (1442, 355, 1797)
    for digit in range(10):
        total = np.sum(everything.labels == digit)
        assert np.sum(test.labels == digit) == total // 5
    together = np.concatenate([train.pixels, test.pixels]).reshape(1797, 64)
    whole = everything.pixels.reshape(1797, 64)
    np.testing.assert_array_equal(np.unique(together, axis=0), np.unique(whole, axis=0))


def test_at_8x8_the_pixels_are_scikit_learns():
    digits, original = Digits("all", 8), load_digits()
    np.testing.assert_array_equal(digits.labels, original.target)
    np.testing.assert_allclose(digits_to_8x8(rgb(digits)), original.data, atol=0.5 * 16 / 255)
    assert digits.label(7) == original.target[7]


def test_upscaled_images_come_back_nearly():
    digits, original = Digits("test", 32), Digits("test", 8)
    images = rgb(digits)
    assert images.shape == (355, 32, 32, 3)
    assert images.dtype == np.uint8
    error = digits_to_8x8(images) - digits_to_8x8(rgb(original))
    assert np.abs(error).mean() < 1  # of 16; the bicubic kernel overlaps its neighbors


def test_area_average_is_exact_on_blocks():
    values = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    images = np.repeat(np.kron(values, np.ones((1, 3, 3), np.uint8))[..., None], 3, axis=-1)
    np.testing.assert_allclose(digits_to_8x8(images), values.reshape(1, 64) * (16 / 255), rtol=1e-6)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="'validation'"):
        Digits("validation")
    with pytest.raises(ValueError, match="size of digits is 28"):
        Digits("test", 28)
