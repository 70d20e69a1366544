"""Error bars against scipy's tests, and against Gaussians whose distance is known."""

import numpy as np
import pytest
import scipy.spatial
import scipy.stats

from lightningdit_jax.evaluation.error_bars import (
    ErrorBar,
    fixed_labels,
    jackknife_blocks,
    of_difference,
    of_jackknife,
    of_mean,
    random_blocks,
    without,
)
from lightningdit_jax.evaluation.frechet import Gaussian, Moments, distance_from
from lightningdit_jax.evaluation.frechet_errors import frechet_bars
from lightningdit_jax.evaluation.precision_recall import coverage, precision_recall

RNG = np.random.default_rng(0)


def test_means_and_differences_have_the_intervals_of_students_and_welchs_tests():
    a, b = RNG.normal(1, 0.2, 5), RNG.normal(1.3, 0.9, 8)
    want = scipy.stats.t.interval(0.95, 4, a.mean(), scipy.stats.sem(a))
    assert of_mean(a).interval == pytest.approx(want)
    found = of_difference(of_mean(a), of_mean(b))
    want = scipy.stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert found.interval == pytest.approx((want.low, want.high))
    same = ErrorBar(2.0, 0.0, 3)
    assert of_difference(same, same).interval == (0, 0)
    with pytest.raises(ValueError, match="two values or more"):
        of_mean([1.0])


def test_a_jackknife_of_a_mean_is_its_standard_error():
    x = RNG.normal(size=40)
    left_out = [x[without(np.array([i]), 40)].mean() for i in range(40)]
    assert of_jackknife(x.mean(), left_out).standard_error == pytest.approx(scipy.stats.sem(x))


def test_blocks_share_the_samples():
    blocks = random_blocks(103, 20)
    assert sorted(map(len, blocks)) == [5] * 17 + [6] * 3
    assert sorted(np.concatenate(blocks)) == list(range(103))
    labels = RNG.permutation(np.repeat(np.arange(4), 25))
    for block in random_blocks(100, 10, labels):
        assert set(np.bincount(labels[block])) <= {2, 3}
    assert [len(block) for block in jackknife_blocks(100, 10, labels)] == [13] * 4 + [12] * 4
    assert fixed_labels(labels) is labels and fixed_labels(labels[:97]) is None
    with pytest.raises(ValueError, match="39 samples make no 20 blocks"):
        random_blocks(39, 20)


def test_moments_without_a_part_are_those_of_the_rest():
    x = RNG.normal(50, 1, (300, 6))
    rest = Moments.of(x).without(Moments.of(x[:90]))
    np.testing.assert_allclose(rest.mean, x[90:].mean(0))
    np.testing.assert_allclose(rest.covariance, np.cov(x[90:].T), atol=1e-12)


def test_intervals_of_a_frechet_distance_cover_what_they_should():
    """One mean and all variances differ, so distance, bias and coverage are known."""
    dim, count, repeats, shift = 4, 200, 120, 0.5
    scale, rng = np.linspace(0.8, 1.2, dim), np.random.default_rng(0)
    mean = np.eye(dim)[0] * shift
    true = shift**2 + np.square(scale - 1).sum()
    distance = distance_from(Gaussian(np.zeros(dim), np.eye(dim)))
    blocks = random_blocks(count, 20)
    found = [
        frechet_bars("fid", distance, [mean + scale * rng.normal(size=(count, dim))], blocks)
        for _ in range(repeats)
    ]
    values = np.array([bars["fid"].value for bars in found])
    for name, target in (("fid", values.mean()), ("fid_infinity", true)):
        covers = [low <= target <= high for low, high in (b[name].interval for b in found)]
        assert 0.91 <= np.mean(covers) <= 0.99, name
    errors = [bars["fid"].standard_error for bars in found]
    assert np.mean(errors) == pytest.approx(values.std(), rel=0.15)
    # The bias of unit variances, d + d (d + 1) / 4 over N, to first order; here they differ a bit.
    bias = np.mean([bars["fid"].value - bars["fid_infinity"].value for bars in found])
    assert bias == pytest.approx((dim + dim * (dim + 1) / 4) / count, rel=0.15)


def test_samples_with_as_many_of_each_class_vary_less_than_their_classes():
    """Class means far apart: only blocks with their share of each know how little sets differ."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(4), 50)
    distance = distance_from(Gaussian(np.zeros(2), np.eye(2)))
    means = 5 * rng.normal(size=(4, 2))
    sets = [means[labels] + rng.normal(size=(200, 2)) for _ in range(60)]
    deviation = np.std([distance(Moments.of(x).gaussian) for x in sets], ddof=1)
    errors = []
    for given in (labels, None):
        blocks = jackknife_blocks(200, 20, given)
        bars = [frechet_bars("fid", distance, [x], blocks)["fid"] for x in sets]
        errors.append(np.mean([bar.standard_error for bar in bars]))
    assert errors[0] == pytest.approx(deviation, rel=0.2) and errors[1] > 2 * deviation


def test_there_is_no_extrapolation_from_few_samples():
    distance = distance_from(Gaussian(np.zeros(4), np.eye(4)))
    found = [
        frechet_bars("fid", distance, [RNG.normal(size=(n, 4))], random_blocks(n, 5))
        for n in (63, 64)
    ]
    assert [list(bars) for bars in found] == [["fid"], ["fid", "fid_infinity"]]


def test_precision_and_recall_without_a_block_are_of_the_other_balls():
    reference, samples = RNG.normal(size=(60, 3)), RNG.normal(0.5, 1, (80, 3))
    blocks, k = random_blocks(80, 8), 3
    found = coverage(reference, samples, blocks, k)
    assert found.whole() == precision_recall(reference, samples, k)
    between = scipy.spatial.distance.cdist(samples, reference)
    within = [scipy.spatial.distance.cdist(x, x) for x in (reference, samples)]
    real_radii, radii = (np.sort(d, axis=1)[:, k] for d in within)
    for number, block in enumerate(blocks):
        rest = without(block, 80)
        got = found.without(number, block)
        assert got.precision == (between <= real_radii).any(1)[rest].mean()
        assert got.recall == (between <= radii[:, None])[rest].any(0).mean()
