"""Networks whose weights stay fixed, read from converted checkpoints: LPIPS, foundation models."""

import dataclasses
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from lightningdit_jax.checkpoint import (
    architecture_fields,
    find_checkpoint,
    read_arrays,
    read_meta,
)
from lightningdit_jax.config import Config
from lightningdit_jax.models.registry import abstract_model, architecture
from lightningdit_jax.parallel.sharding import FROZEN_RULES, tree_shardings

LPIPS, FOUNDATION = "lpips", "foundation"


@dataclasses.dataclass(frozen=True)
class FrozenNetwork:
    """A network and its weights, float32 on the mesh."""

    config: Any
    graphdef: nnx.GraphDef
    params: Any


def load_frozen_networks(config: Config, mesh: Mesh) -> dict[str, FrozenNetwork]:
    """LPIPS and the foundation model, where the tokenizer's loss needs them.

    Raises ValueError naming the config key whose path is empty or leads to another kind, and
    FileNotFoundError.
    """
    networks, frozen = {}, config.frozen
    if config.vae_loss.perceptual_weight > 0:
        networks[LPIPS] = _load(
            "frozen.lpips", frozen.lpips, "lpips", "vae_loss.perceptual_weight", config, mesh
        )
    if is_aligned(config):
        networks[FOUNDATION] = _load(
            "frozen.foundation",
            frozen.foundation,
            config.vae_loss.alignment,
            "stages.vf_weight",
            config,
            mesh,
        )
    return networks


def is_aligned(config: Config) -> bool:
    """Whether any stage aligns the latents with a foundation model."""
    return config.vae_loss.alignment != "none" and max(config.stages.vf_weight) > 0


def _load(
    key: str, path: str, expect: str, weight: str, config: Config, mesh: Mesh
) -> FrozenNetwork:
    if not path:
        raise ValueError(
            f"config.{key} is empty, but config.{weight} is above 0; set it to a checkpoint of a "
            f"{expect} (convert_torch_weights.py makes them of published weights), or set the "
            "weight to 0"
        )
    checkpoint = find_checkpoint(path)
    meta = read_meta(checkpoint)
    found = meta["kind"]
    if found != expect:
        raise ValueError(f"config.{key}: {checkpoint} holds a {found}; expected a {expect}")
    network = architecture(meta["kind"], architecture_fields(meta))
    graphdef, abstract = abstract_model(meta["kind"], network, config.compute.dtype)
    abstract = jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
        abstract,
        tree_shardings(abstract, mesh, FROZEN_RULES),
    )
    return FrozenNetwork(network, graphdef, read_arrays(checkpoint, "params", abstract))
