"""Networks whose weights stay fixed, read from converted checkpoints: LPIPS, foundation models."""

from collections.abc import Callable

from jax.sharding import Mesh

from lightningdit_jax.assembly.alignment import alignment_kind
from lightningdit_jax.assembly.loading import (
    Loaded,
    WrongKindError,
    abstract_functional,
    abstract_network,
    load_functional,
)
from lightningdit_jax.assembly.registry import MODELS
from lightningdit_jax.config import Config

LPIPS, FOUNDATION = "lpips", "foundation"
_WEIGHTS = {LPIPS: "vae_loss.perceptual_weight", FOUNDATION: "stages.vf_weight"}


def load_frozen_networks(config: Config, mesh: Mesh) -> dict[str, Loaded]:
    """LPIPS and the foundation model, where the tokenizer's loss needs them.

    Raises ValueError naming the config key whose path is empty or leads to another kind, or whose
    name is of no foundation model, and FileNotFoundError.
    """
    return {
        name: _open(load_functional, name, kind, config, mesh)
        for name, kind in _needed(config).items()
    }


def abstract_frozen_networks(config: Config, mesh: Mesh) -> dict[str, Loaded]:
    """The same without weights: where a path is empty, of the published network of that kind.

    Raises ValueError for a kind without a published network and without a path, and as
    load_frozen_networks.
    """
    return {
        name: abstract_network(kind, MODELS[kind].published, mesh, config.compute)
        if not getattr(config.frozen, name) and MODELS[kind].published is not None
        else _open(abstract_functional, name, kind, config, mesh)
        for name, kind in _needed(config).items()
    }


def _needed(config: Config) -> dict[str, str]:
    """Kinds of the networks in the loss, by key of config.frozen."""
    needed = {LPIPS: "lpips"} if config.vae_loss.perceptual_weight > 0 else {}
    kind = alignment_kind(config)
    return needed | ({} if kind is None else {FOUNDATION: kind})


def _open(load: Callable[..., Loaded], name: str, kind: str, config: Config, mesh: Mesh) -> Loaded:
    path = getattr(config.frozen, name)
    if not path:
        raise ValueError(
            f"config.frozen.{name} is empty, but config.{_WEIGHTS[name]} is above 0; set it to a "
            f"checkpoint of a {kind} (convert_torch_weights.py makes them of published weights), "
            "or set the weight to 0"
        )
    try:
        return load(path, mesh, expect=kind, compute=config.compute)
    except WrongKindError as error:
        raise ValueError(f"config.frozen.{name}: {error}") from error
