import numpy as np
import pytest

from lightningdit_jax.evaluation import neighbors
from lightningdit_jax.evaluation.neighbors import nearest_distances, within_class_nearest

RNG = np.random.default_rng(0)
QUERIES = RNG.normal(5, 1, (23, 4, 2)).astype(np.float32)
REFERENCE = RNG.normal(5, 1, (17, 4, 2)).astype(np.float32)
LABELS = np.arange(23) % 3


def all_distances(a, b):
    """Every distance, one difference at a time. [Q, ...], [R, ...] -> [Q, R]."""
    a, b = a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64)
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))


@pytest.fixture(params=[1024, 5], ids=["one block", "blocks of 5"])
def _block(request, monkeypatch):
    monkeypatch.setattr(neighbors, "BLOCK", request.param)


@pytest.mark.usefixtures("_block")
def test_nearest_equals_brute_force():
    want = all_distances(QUERIES, REFERENCE).min(axis=1)
    np.testing.assert_allclose(nearest_distances(QUERIES, REFERENCE), want, rtol=1e-12)


@pytest.mark.usefixtures("_block")
def test_within_class_equals_brute_force():
    distances = all_distances(QUERIES, QUERIES)
    distances[LABELS[:, None] != LABELS[None]] = np.inf
    np.fill_diagonal(distances, np.inf)
    want = distances.min(axis=1)
    np.testing.assert_allclose(within_class_nearest(QUERIES, LABELS), want, rtol=1e-12)


def test_exact_copies_have_distance_zero():
    """Far from the origin too, where |a|² - 2ab + |b|² would round to something else."""
    copies = REFERENCE[[3, 0, 11]] + 1e4
    np.testing.assert_array_equal(nearest_distances(copies, REFERENCE + 1e4), 0)
    twice = np.concatenate([copies, copies])
    np.testing.assert_array_equal(within_class_nearest(twice, [0, 1, 2] * 2), 0)


def test_images_are_not_subtracted_as_bytes():
    black, white = np.zeros((1, 2, 2), np.uint8), np.full((1, 2, 2), 255, np.uint8)
    np.testing.assert_array_equal(nearest_distances(black, white), [510])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"\(23, 8\) and reference \(17, 6\)"):
        nearest_distances(QUERIES, REFERENCE[:, :3])
    with pytest.raises(ValueError, match=r"reference \(0, 8\)"):
        nearest_distances(QUERIES, REFERENCE[:0])
    with pytest.raises(ValueError, match=r"labels have shape \(22,\) for 23"):
        within_class_nearest(QUERIES, LABELS[:22])
    with pytest.raises(ValueError, match=r"classes \[7\] have one member"):
        within_class_nearest(QUERIES[:3], [0, 0, 7])
