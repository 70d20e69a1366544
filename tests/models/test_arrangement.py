"""Fused kernels with their parts first: values, and the way back."""

import chex
import jax
import numpy as np

from lightningdit_jax.models.arrangement import parts_as_saved, parts_first


def test_there_and_back():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    blocks = {
        "attn": {"qkv": {"kernel": draw(2, 5, 3, 4, 6), "bias": draw(2, 3, 4, 6)}},
        "mlp": {
            "w12": {"kernel": draw(2, 5, 2, 7)},
            "w3": {"kernel": draw(2, 7, 5)},
        },
    }
    arranged = parts_first(blocks)
    queries = blocks["attn"]["qkv"]["kernel"][1, :, 0].reshape(5, 24)
    np.testing.assert_array_equal(arranged["attn"]["qkv"]["kernel"][1, 0], queries)
    values = blocks["mlp"]["w12"]["kernel"][0, :, 1]
    np.testing.assert_array_equal(arranged["mlp"]["w12"]["kernel"][0, 1], values)
    for layer in (0, 1):
        block = jax.tree.map(lambda leaf, i=layer: leaf[i], arranged)
        want = jax.tree.map(lambda leaf, i=layer: leaf[i], blocks)
        chex.assert_trees_all_equal(parts_as_saved(block, blocks), want)
