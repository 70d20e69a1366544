"""Weights in the types that products take them in, cast once for many uses."""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx

from lightningdit_jax.models.float8 import Float8Linear
from lightningdit_jax.tree_paths import map_named, named_leaves

# Exactly these cast kernel and bias to their dtype before anything else; norms and tables of
# embeddings are used in float32.
_LAYERS = (nnx.Linear, nnx.LinearGeneral, Float8Linear, nnx.Conv)


def as_used(graphdef: nnx.GraphDef, params: Any) -> Any:
    """params with the kernels and biases of linear layers and convolutions in their layer's dtype.

    What the module makes of them is the same, bit for bit, without a cast at each use. params: a
    nested dict of arrays, or of ShapeDtypeStructs. Shardings stay; what has its type already is
    not copied.
    """
    dtypes = {}
    for path, layer in nnx.iter_modules(nnx.merge(graphdef, params)):
        dtype = getattr(layer, "dtype", None)
        if type(layer) in _LAYERS and dtype is not None:
            for name in ("kernel", "bias"):
                dtypes["/".join(map(str, (*path, name)))] = np.dtype(dtype)
    named = named_leaves(params)
    others = {name: leaf for name, leaf in named if dtypes.get(name, leaf.dtype) != leaf.dtype}
    wanted = tuple(dtypes[name] for name in others)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in others.values()):
        cast: Any = [
            jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
            for leaf, dtype in zip(others.values(), wanted, strict=True)
        ]
    else:
        cast = _cast(list(others.values()), wanted)
    used = dict(zip(others, cast, strict=True))
    return map_named(lambda name, leaf: used.get(name, leaf), params)


@functools.partial(jax.jit, static_argnums=1)
def _cast(leaves: list[jax.Array], dtypes: tuple[np.dtype, ...]) -> list[jax.Array]:
    return [leaf.astype(dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
