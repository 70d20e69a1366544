"""KID and CMMD against the kernels of scikit-learn, and sets of which the answer is known."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from lightningdit_jax.evaluation import mmd
from lightningdit_jax.evaluation.error_bars import random_blocks
from lightningdit_jax.evaluation.mmd import cmmd, kid

RNG = np.random.default_rng(0)
REAL = RNG.normal(1, 1, (40, 6)).astype(np.float32)
DRAWN = RNG.normal(1.2, 1.1, (31, 6)).astype(np.float32)


def on_sphere(features):
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def unbiased(real, drawn):
    def among(x):
        values = polynomial_kernel(x, degree=3, gamma=1 / x.shape[1], coef0=1)
        return (values.sum() - np.trace(values)) / (len(x) * (len(x) - 1))

    real, drawn = (a.astype(np.float64) for a in (real, drawn))
    across = polynomial_kernel(drawn, real, degree=3, gamma=1 / real.shape[1], coef0=1)
    return among(real) + among(drawn) - 2 * across.mean()


def least_variance(real, drawn):
    real, drawn = (a.astype(np.float64) for a in (real, drawn))
    pairs = [(real, real), (drawn, drawn), (drawn, real)]
    means = [rbf_kernel(*pair, gamma=1 / 200).mean() for pair in pairs]
    return 1000 * (means[0] + means[1] - 2 * means[2])


CASES = [(kid, unbiased, REAL, DRAWN), (cmmd, least_variance, on_sphere(REAL), on_sphere(DRAWN))]


@pytest.mark.parametrize("block", [1000, 7])
@pytest.mark.parametrize("ours, theirs, real, drawn", CASES, ids=["kid", "cmmd"])
def test_kernels_of_scikit_learn(monkeypatch, block, ours, theirs, real, drawn):
    """The whole, and what is left without each block, as if there had never been more."""
    monkeypatch.setattr(mmd, "BLOCK", block)
    blocks = random_blocks(len(drawn), 5)
    found = ours(real, drawn, blocks)
    assert found.value == pytest.approx(theirs(real, drawn), rel=1e-4)
    rest = [theirs(real, np.delete(drawn, part, axis=0)) for part in blocks]
    assert found.left_out == pytest.approx(rest, rel=1e-4) and len(set(rest)) == 5
    assert ours(real, drawn) == (found.value, [])


def test_kid_of_sets_that_are_alike_is_zero_on_average():
    sets = RNG.normal(size=(200, 2, 20, 4))
    values = np.array([kid(*pair).value for pair in sets])
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean()) < 3 * error and values.min() < 0 < values.max()


def test_cmmd_of_two_points():
    """1000 (1 + 1 - 2 exp(-|x - y|^2 / 200)), to all the digits of float32."""
    real, drawn = np.array([[1.0, 0], [1, 0]]), np.array([[np.cos(1e-2), np.sin(1e-2)]] * 2)
    want = -2000 * np.expm1(-((2 * np.sin(5e-3)) ** 2) / 200)
    assert cmmd(real, drawn).value == pytest.approx(want, rel=2e-3)  # 1e-4 from 1 in squares
    assert cmmd(real, real).value == 0


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"samples has shape \(1, 6\); expected .* at least 2"):
        kid(REAL, DRAWN[:1])
    with pytest.raises(ValueError, match="features of size 6 and samples of size 5"):
        cmmd(REAL, DRAWN[:, :5])
    with pytest.raises(ValueError, match="reference holds values that are not finite"):
        kid(REAL * np.nan, DRAWN)
