import numpy as np
import pytest

from lightningdit_jax.evaluation import cosine_neighbors
from lightningdit_jax.evaluation.cosine_neighbors import nearest_by_cosine, neighbor_purity

RNG = np.random.default_rng(0)
REFERENCE = RNG.normal(1, 1, (23, 3, 2)).astype(np.float32)
QUERIES = RNG.normal(1, 1, (11, 3, 2)).astype(np.float32)


def similarities(a, b):
    """Every cosine, one pair at a time. [Q, ...], [R, ...] -> [Q, R]."""
    lengths = (np.sqrt([np.vdot(x, x) for x in items]) for items in (a, b))
    return np.array([[np.vdot(x, y) for y in b] for x in a]) / np.outer(*lengths)


@pytest.fixture(params=[(65_536, 1024), (4, 5)], ids=["one block", "blocks of 4 and 5"])
def _blocks(request, monkeypatch):
    for name, size in zip(("QUERIES", "BLOCK"), request.param):
        monkeypatch.setattr(cosine_neighbors, name, size)


@pytest.mark.usefixtures("_blocks")
def test_nearest_equal_brute_force():
    got = nearest_by_cosine(QUERIES, lambda a, b: REFERENCE[a:b], 23, 7)
    want = np.argsort(-similarities(QUERIES, REFERENCE), axis=1)[:, :7]
    np.testing.assert_array_equal(got, want)


@pytest.mark.usefixtures("_blocks")
def test_a_query_is_not_its_own_neighbor():
    own = np.arange(5, 16)
    got = nearest_by_cosine(REFERENCE[5:16], lambda a, b: REFERENCE[a:b], 23, 3, own)
    every = similarities(REFERENCE[5:16], REFERENCE)
    every[np.arange(11), own] = -2
    np.testing.assert_array_equal(got, np.argsort(-every, axis=1)[:, :3])


def test_lengths_do_not_matter_and_zeros_are_near_nothing():
    scaled = REFERENCE * np.linspace(0.01, 50, 23)[:, None, None]
    scaled[4] = 0
    got = nearest_by_cosine(QUERIES, lambda a, b: scaled[a:b], 23)
    every = similarities(QUERIES, REFERENCE)
    every[:, 4] = 0
    np.testing.assert_array_equal(got[:, 0], every.argmax(1))


def test_more_neighbors_than_there_are_are_refused():
    nearest_by_cosine(QUERIES, lambda a, b: QUERIES[a:b], 11, 10, np.arange(11))
    for k in (0, 11):
        with pytest.raises(ValueError, match=f"{k} neighbors are asked for among 10"):
            nearest_by_cosine(QUERIES, lambda a, b: QUERIES[a:b], 11, k, np.arange(11))


def test_purity_is_of_the_nearest_about_the_common_mean():
    labels = np.arange(23) % 3
    features = REFERENCE.reshape(23, 6) + 10 * np.eye(6)[2 * labels]
    assert neighbor_purity(features + 1000, labels) == 1
    mixed = np.roll(labels, 1)
    every = similarities(features - features.mean(0), features - features.mean(0))
    np.fill_diagonal(every, -2)
    assert neighbor_purity(features, mixed) == np.mean(mixed[every.argmax(1)] == mixed)
