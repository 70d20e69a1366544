"""A model that was trained beside another one, in whose checkpoint it lies: REPA-E's tokenizer."""

from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lightningdit_jax.assembly.registry import Role, model_of
from lightningdit_jax.checkpoint import item_names, read_arrays
from lightningdit_jax.checkpoint_reading import array_metadata

# What a companion's own description has from that of its checkpoint.
_SHARED = ("format_version", "step", "latents", "seed", "batch_size")


def companion_of(checkpoint: epath.Path, meta: Mapping[str, Any], expect: Role | str) -> str:
    """The name of the model beside a checkpoint's own that can be used as `expect`, "" for none.

    Companions that serve a loss alone, as a discriminator, are described by their sizes, and are
    none; nor is one that stayed behind, as where the generator was published.
    """
    for name, said in meta.get("companions", {}).items():
        if "architecture" in said and expect in (said["kind"], model_of(said["kind"]).role):
            return name if name in item_names(checkpoint) else ""
    return ""


def companion_meta(meta: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the checkpoint of a companion would say of itself."""
    return {key: meta[key] for key in _SHARED if key in meta} | meta["companions"][name]


def read_companion(checkpoint: epath.Path, name: str, mesh: Mesh) -> tuple[Any, Any]:
    """Parameters and running statistics of a companion, on every device.

    All processes must call it. Raises as read_arrays.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        array_metadata(checkpoint, name),
    )
    tree = read_arrays(checkpoint, name, abstract)
    return tree["params"], tree["stats"]
