"""Where parameters and activations lie on the mesh: ordered tables of (path pattern, spec).

The same table serves parameters, EMA and optimizer moments, since their paths end in the
parameter's path. Blocks are stacked over depth (a leading axis L that is never sharded). D is the
model width, H heads, F the MLP's hidden width.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lightningdit_jax.parallel.mesh import BATCH_AXES

Rules = Sequence[tuple[str, P]]

# A tensor below this many elements is replicated where "fsdp" does not divide it: it costs nothing.
SMALL = 2**16

# "fsdp" cuts the axis of width D of every block kernel. "tensor" follows Megatron (Shoeybi et al.
# 2019): heads and F are cut in the column-parallel qkv and w12, and summed over in proj and w3.
# Embeddings and the final layer are replicated: sharding them only adds stray collectives.
LIGHTNINGDIT_RULES: Rules = (
    (r"(^|/)blocks/attn/qkv/kernel$", P(None, "fsdp", None, "tensor", None)),  # [L, D, 3, H, hd]
    (r"(^|/)blocks/attn/qkv/bias$", P(None, None, "tensor", None)),  # [L, 3, H, hd]
    (r"(^|/)blocks/attn/proj/kernel$", P(None, "tensor", None, "fsdp")),  # [L, H, hd, D]
    (r"(^|/)blocks/mlp/w12/kernel$", P(None, "fsdp", None, "tensor")),  # [L, D, 2, F]
    (r"(^|/)blocks/mlp/w12/bias$", P(None, None, "tensor")),  # [L, 2, F]
    (r"(^|/)blocks/mlp/fc1/kernel$", P(None, "fsdp", "tensor")),  # [L, D, F]
    (r"(^|/)blocks/mlp/fc1/bias$", P(None, "tensor")),  # [L, F]
    (r"(^|/)blocks/mlp/(w3|fc2)/kernel$", P(None, "tensor", "fsdp")),  # [L, F, D]
    (r"(^|/)blocks/adaLN_modulation/kernel$", P(None, "fsdp")),  # [L, D, 6 or 4, D]
    (r"(^|/)blocks/(attn/proj|mlp/w3|mlp/fc2|adaLN_modulation)/bias$", P()),
    (r"(^|/)blocks/(norm[12]|attn/[qk]_norm)/(scale|bias)$", P()),
    (r"(^|/)([xty]_embedder|final_layer)/", P()),
    (r"(^|/)pos_embed$", P()),
)

# The autoencoder is small (70 M parameters): its convolution kernels alone are worth sharding.
VAVAE_RULES: Rules = (
    (r"(^|/)(q|k|v|proj_out)/kernel$", P(None, "fsdp")),
    (r"(^|/)kernel$", P(None, None, None, "fsdp")),  # [kh, kw, in, out]
    (r"(^|/)(bias|scale)$", P()),
)

# Frozen networks: nearly all of a ViT-L's 300 M parameters are in the kernels of its blocks.
FROZEN_RULES: Rules = (
    (r"(^|/)blocks/attn/proj/kernel$", P(None, None, None, "fsdp")),  # [L, H, hd, D]
    (r"(^|/)blocks/.*kernel$", P(None, "fsdp")),  # [L, in, ...]
    (r"", P()),
)

# A tokenizer's state: companions, 2.8 M parameters at most, are replicated.
TOKENIZER_RULES: Rules = ((r"^companions/", P()), *VAVAE_RULES)


def _spec(path: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules) -> P:
    """First spec whose pattern is found in the path, checked against the shape."""
    if not shape:
        return P()
    spec = next((spec for pattern, spec in rules if re.search(pattern, path)), None)
    if spec is None:
        raise ValueError(
            f"no sharding rule matches {path!r} (shape {shape}); add its pattern to the table"
        )
    if len(spec) > len(shape):
        raise ValueError(f"{path!r} has shape {shape}, but its sharding rule expects {spec}")
    axes = []
    for size, axis in zip(shape, spec):
        parts = 1 if axis is None else mesh.shape[axis]
        if size % parts == 0:
            axes.append(axis)
        elif axis == "fsdp" and math.prod(shape) < SMALL:
            axes.append(None)
        else:
            raise ValueError(
                f"{path!r} has shape {shape}: its axis of size {size} cannot be divided by "
                f"mesh.{axis}={parts}; choose a mesh.{axis} that divides {size}"
            )
    return P(*axes)


def tree_shardings(tree: Any, mesh: Mesh, rules: Rules) -> Any:
    """Sharding of every leaf: a tree of arrays or ShapeDtypeStructs -> the same of NamedShardings.

    A leaf's path is its keys joined by "/" (dict keys, sequence indices, field names); the first
    pattern of the table found in it decides. Scalars are replicated. A leaf of fewer than 2**16
    elements that "fsdp" does not divide is not cut along "fsdp".
    Raises ValueError naming the path if no pattern matches, or if a mesh axis does not divide the
    axis it should cut.
    """

    def leaf_sharding(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, _spec(name, tuple(leaf.shape), mesh, rules))

    return jax.tree_util.tree_map_with_path(leaf_sharding, tree)


@dataclasses.dataclass(frozen=True)
class TokenConstraint:
    """Pins activations [B, ...] to the batch shards of `mesh`; hashable, so a model can hold it.

    Without it XLA may shard activations over "fsdp" along the width, like the kernels, and
    gather activations instead of parameters.
    """

    mesh: Mesh

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, N, D] -> the same, sharded over the batch."""
        x = jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, P(BATCH_AXES)))
        if self.mesh.devices.flat[0].platform == "gpu":
            x = with_layout_constraint(x, Layout(tuple(range(x.ndim))))
        return x


def constrain_tokens(mesh: Mesh) -> TokenConstraint:
    """The model's injected `constrain(x)` for this mesh."""
    return TokenConstraint(mesh)
