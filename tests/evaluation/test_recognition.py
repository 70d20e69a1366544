"""The judge of digits on real ones, whole and damaged."""

import numpy as np
import pytest

from lightningdit_jax.evaluation.recognition import DigitsJudge
from lightningdit_jax.inference.quality.digits import real_digits


@pytest.fixture(scope="module")
def judge():
    return DigitsJudge.fit(*real_digits("train"))


def test_held_out_digits_are_recognized(judge):
    x, labels = real_digits("test")
    assert judge.recognised_share(x, labels) > 0.97
    assert judge.recognised_share(x, (labels + 1) % 10) < 0.03


def test_the_distance_of_what_it_was_fitted_on_is_zero(judge):
    x, _ = real_digits("train")
    assert judge.frechet_distance(x) == pytest.approx(0, abs=1e-5)


def test_the_distance_grows_with_damage(judge):
    """Held-out digits are nearest; noise, few kinds, a missing class and blur are all farther."""
    x, labels = real_digits("test")
    rng = np.random.default_rng(0)
    grid = x.reshape(-1, 8, 8)
    damaged = {
        "noise": np.clip(x + rng.normal(0, 2, x.shape), 0, 16),
        "three of each class": x[
            [np.flatnonzero(labels == c)[i % 3] for i, c in enumerate(labels)]
        ],
        "no nines": x[labels != 9],
        "blur": ((grid + np.roll(grid, 1, 1) + np.roll(grid, 1, 2)) / 3).reshape(x.shape),
    }
    real = judge.frechet_distance(x)
    distances = {name: judge.frechet_distance(images) for name, images in damaged.items()}
    assert min(distances.values()) > 3 * real, (real, distances)
    noisier = judge.frechet_distance(np.clip(x + rng.normal(0, 4, x.shape), 0, 16))
    assert noisier > 3 * distances["noise"]
