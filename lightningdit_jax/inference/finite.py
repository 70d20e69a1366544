"""Results that are not finite: which they are, and whose weights are to blame."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lightningdit_jax.errors import listed
from lightningdit_jax.tree_paths import named_leaves


def rows_are_finite(array: jax.Array) -> jax.Array:
    """Whether all values of each row are finite. [B, ...] -> bool [B]."""
    return jnp.isfinite(array).all(axis=tuple(range(1, array.ndim)))


def check_finite(
    finite: np.ndarray, names: list[str], what: str, weights: Mapping[str, Any], advice: str
) -> None:
    """Raises FloatingPointError where a row is not finite, naming rows and damaged weights.

    finite: bool [b]; names: of the rows; what: they are. weights: parameters by the name of their
    network; advice: what to do where those are in order. Nothing is asked of other processes.
    """
    if finite.all():
        return
    bad = [names[row] for row in np.flatnonzero(~finite)]
    reason = damaged_weights(weights) or advice
    raise FloatingPointError(f"{what} of {listed(bad)} are not finite: {reason}")


def damaged_weights(weights: Mapping[str, Any]) -> str | None:
    """A sentence naming the first weights here that are not finite; None where all are.

    They are looked at on the host: a device would compile a program for each shape.
    """
    for name, params in weights.items():
        for where, leaf in named_leaves(params):
            shards = (np.asarray(shard.data) for shard in leaf.addressable_shards)
            if not all(np.isfinite(values).all() for values in shards):
                return f"the weights of {name} hold values that are not finite, in {where}"
    return None
