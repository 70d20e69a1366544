"""Networks whose weights stay fixed, read from converted checkpoints: LPIPS, foundation models."""

import dataclasses
from typing import Any

from flax import nnx
from jax.sharding import Mesh

from lightningdit_jax.assembly.registry import MODELS, abstract_model, architecture
from lightningdit_jax.checkpoint import (
    architecture_fields,
    find_checkpoint,
    read_arrays,
    read_meta,
)
from lightningdit_jax.config import Config
from lightningdit_jax.models.lpips import LPIPSConfig
from lightningdit_jax.models.vit import ViTConfig
from lightningdit_jax.parallel.sharding import abstract_on_mesh

LPIPS, FOUNDATION = "lpips", "foundation"
_WEIGHTS = {LPIPS: "vae_loss.perceptual_weight", FOUNDATION: "stages.vf_weight"}

_VIT_L = {"hidden_size": 1024, "depth": 24, "num_heads": 16, "mlp_hidden": 4096}
# By kind; what the release's configs name. The weights of a "vit" are anyone's own.
PUBLISHED = {
    "lpips": LPIPSConfig(),
    "dinov2": ViTConfig(
        patch_size=14,
        pos_embed_grid=37,
        layer_scale=True,
        num_registers=0,
        class_pos_embed=True,
        **_VIT_L,
    ),
    "mae": ViTConfig(
        patch_size=16,
        pos_embed_grid=14,
        layer_scale=False,
        num_registers=0,
        class_pos_embed=True,
        **_VIT_L,
    ),
}


@dataclasses.dataclass(frozen=True)
class FrozenNetwork:
    """A network and its weights, float32 on the mesh, or ShapeDtypeStructs of them."""

    config: Any
    graphdef: nnx.GraphDef
    params: Any


def load_frozen_networks(config: Config, mesh: Mesh) -> dict[str, FrozenNetwork]:
    """LPIPS and the foundation model, where the tokenizer's loss needs them.

    Raises ValueError naming the config key whose path is empty or leads to another kind, and
    FileNotFoundError.
    """
    networks = {}
    for name, kind in _needed(config).items():
        checkpoint, found = _find(name, kind, config)
        network = _abstract(kind, found, config, mesh)
        params = read_arrays(checkpoint, "params", network.params)
        networks[name] = dataclasses.replace(network, params=params)
    return networks


def abstract_frozen_networks(config: Config, mesh: Mesh) -> dict[str, FrozenNetwork]:
    """The same without weights: where a path is empty, of the published network of that kind.

    Raises ValueError for an own "vit" without a path, and as load_frozen_networks.
    """
    networks = {}
    for name, kind in _needed(config).items():
        if not getattr(config.frozen, name) and kind in PUBLISHED:
            found = PUBLISHED[kind]
        else:
            _, found = _find(name, kind, config)
        networks[name] = _abstract(kind, found, config, mesh)
    return networks


def is_aligned(config: Config) -> bool:
    """Whether any stage aligns the latents with a foundation model."""
    return config.vae_loss.alignment != "none" and max(config.stages.vf_weight) > 0


def _needed(config: Config) -> dict[str, str]:
    """Kinds of the networks in the loss, by key of config.frozen."""
    needed = {LPIPS: "lpips"} if config.vae_loss.perceptual_weight > 0 else {}
    return needed | ({FOUNDATION: config.vae_loss.alignment} if is_aligned(config) else {})


def _find(name: str, kind: str, config: Config) -> tuple[Any, Any]:
    """Checkpoint of a network, and its architecture."""
    path = getattr(config.frozen, name)
    if not path:
        raise ValueError(
            f"config.frozen.{name} is empty, but config.{_WEIGHTS[name]} is above 0; set it to a "
            f"checkpoint of a {kind} (convert_torch_weights.py makes them of published weights), "
            "or set the weight to 0"
        )
    checkpoint = find_checkpoint(path)
    meta = read_meta(checkpoint)
    found = meta["kind"]
    if found != kind:
        raise ValueError(f"config.frozen.{name}: {checkpoint} holds a {found}; expected a {kind}")
    return checkpoint, architecture(kind, architecture_fields(meta))


def _abstract(kind: str, network: Any, config: Config, mesh: Mesh) -> FrozenNetwork:
    graphdef, abstract = abstract_model(kind, network, config.compute.dtype)
    return FrozenNetwork(network, graphdef, abstract_on_mesh(abstract, mesh, MODELS[kind].rules))
