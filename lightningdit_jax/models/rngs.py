"""Keys for fresh parameters: those that flax.nnx.Rngs gives, drawn in less time."""

import jax
from flax import nnx


class _Stream(nnx.RngStream):
    """Counts its keys in Python.

    nnx.RngStream counts in a variable and compares the shardings of its old and new value, which
    JAX answers for a traced one with an error that looks through all equations traced so far.
    """

    def __init__(self, key: jax.Array | int):
        super().__init__(key, tag="default")
        self._drawn = 0

    def __call__(self) -> jax.Array:
        key = jax.random.fold_in(self.key[...], self._drawn)
        self._drawn += 1
        return key


class CountedRngs(nnx.Rngs):
    """The keys of nnx.Rngs(seed), for the making of one module. seed: a number, or a key []."""

    def __init__(self, seed: jax.Array | int):
        super().__init__()
        self.default = _Stream(seed)
