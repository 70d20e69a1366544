"""The velocity of a generator by what it predicts, and of labels by their embeddings."""

import jax.numpy as jnp
import numpy as np
import pytest

import lightningdit_jax as ldj
from lightningdit_jax.flow.predictions import Flow
from tests.inference.tiny_generator import random_generator

X = np.random.default_rng(0).normal(size=(3, 4, 4, 8)).astype(np.float32)
T, Y = jnp.array([0.2, 0.5, 0.9]), jnp.array([1, 10, 4])


@pytest.fixture(scope="module")
def dit():
    return random_generator()


def test_it_follows_from_what_the_generator_predicts(dit):
    output = dit(X, T, Y)
    np.testing.assert_array_equal(ldj.velocity(dit, X, T, Y), output)
    t = np.asarray(T)[:, None, None, None]
    # x = t data + (1 - t) noise, and the velocity is data - noise.
    want = (X - output) / t
    np.testing.assert_allclose(
        ldj.velocity(dit, X, T, Y, Flow(prediction="noise")), want, rtol=1e-4, atol=1e-4
    )
    dit.flow = Flow(prediction="noise")
    np.testing.assert_allclose(ldj.velocity(dit, X, T, Y), want, rtol=1e-4, atol=1e-4)
    dit.flow = None


def test_embeddings_of_labels_are_labels(dit):
    """10 is the null label. Half of one and half of another is neither."""
    embeddings = dit.y_embedder(Y)
    np.testing.assert_array_equal(dit(X, T, embeddings), dit(X, T, Y))
    mixed = dit(X, T, (embeddings + embeddings[::-1]) / 2)
    np.testing.assert_array_equal(mixed[1], dit(X, T, Y)[1])
    assert np.abs(mixed[0] - dit(X, T, Y)[0]).max() > 1e-3


@pytest.mark.parametrize("wrong", [jnp.zeros(3), jnp.zeros((3, 15)), jnp.zeros((3, 16), int)])
def test_what_is_neither_label_nor_embedding_is_refused(dit, wrong):
    with pytest.raises(
        ValueError, match=r"and y \(3.* of .*; expected a time and a label .*\(3, 16\)"
    ):
        dit(X, T, wrong)
