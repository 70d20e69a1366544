"""The keys of fresh parameters."""

import jax
import numpy as np
import pytest
from flax import nnx

from lightningdit_jax.models.rngs import CountedRngs


def drawn(make, seed):
    rngs = make(seed)
    keys = [rngs.params(), rngs.params(), rngs(), rngs.dropout(), rngs.default()]
    return np.array([jax.random.key_data(key) for key in keys])


@pytest.mark.parametrize("seed", [0, 2**32 - 1, jax.random.key(7)])
def test_they_are_those_of_nnx(seed):
    np.testing.assert_array_equal(drawn(CountedRngs, seed), drawn(nnx.Rngs, seed))


def test_they_are_the_same_where_they_are_traced():
    key = jax.random.key(3)
    traced = jax.jit(lambda key: [jax.random.key_data(CountedRngs(key).params())])(key)
    np.testing.assert_array_equal(traced, drawn(nnx.Rngs, key)[:1])
