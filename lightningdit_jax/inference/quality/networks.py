"""The networks that distances are measured in, by name. A row stands in its own file."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from lightningdit_jax.assembly.loading import model_meta
from lightningdit_jax.assembly.registry import MODELS, architecture
from lightningdit_jax.checkpoint import architecture_fields, find_checkpoint
from lightningdit_jax.inference.quality import (
    clip,
    convnextv2,
    inception,
    siglip2,
    vision_transformers,
)
from lightningdit_jax.inference.quality.features import FeatureNetwork
from lightningdit_jax.inference.quality.network import EvaluationNetwork

NETWORKS: dict[str, EvaluationNetwork] = {
    **inception.NETWORKS,
    **convnextv2.NETWORKS,
    **vision_transformers.NETWORKS,
    **siglip2.NETWORKS,
    **clip.NETWORKS,
}
POOL = "pool"  # the name of the output that an opened network has, as InceptionNetwork has


def network_of(path: str) -> str:
    """The name of the row that a converted checkpoint is of.

    Raises FileNotFoundError where there is none, ValueError for one of another kind.
    """
    meta = model_meta(find_checkpoint(path))
    kind = meta["kind"]
    found = architecture(kind, architecture_fields(meta))
    for name, row in NETWORKS.items():
        if row.kind == kind and row.accepts(found):
            return name
    kinds = dict.fromkeys(row.kind for row in NETWORKS.values())
    raise ValueError(
        f"{path} holds a {kind}, in whose features no distance is defined; expected a converted "
        f"{', '.join(kinds)}"
    )


def names_of(paths: Sequence[str], inception: str = "") -> dict[str, str]:
    """Converted checkpoints by the name of their network, in order; no array is read.

    inception: the checkpoint of config.evaluate.inception. Raises ValueError for two checkpoints of
    one network, and as network_of.
    """
    names: dict[str, str] = {}
    for path in paths:
        name = network_of(path)
        if name in names:
            raise ValueError(
                f"{names[name]} and {path} are both of {name}; give one checkpoint a network"
            )
        if inception and name == "inception" and path != inception:
            raise ValueError(
                f"config.evaluate.networks has {path} and config.evaluate.inception "
                f"{inception}, both of inception; give one checkpoint a network"
            )
        names[name] = path
    return names


def features_in(name: str) -> Callable[[Any, jax.Array], jax.Array]:
    """The row's features(module, images), with products as exact as on any other device."""

    def features(module: Any, images: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return NETWORKS[name].features(module, images)

    return features


def open_network(path: str, batch_size: int, mesh: Mesh) -> tuple[str, FeatureNetwork]:
    """A converted checkpoint as the network that it is of, and its name; its output is POOL.

    batch_size and what is raised: as for FeatureNetwork and network_of.
    """
    name = network_of(path)
    row, features = NETWORKS[name], features_in(name)

    def run(module: Any, images: jax.Array) -> dict[str, jax.Array]:
        return {POOL: features(module, images)}

    network = FeatureNetwork(
        name, path, row.kind, run, identity=row.identity, batch_size=batch_size, mesh=mesh
    )
    return name, network


def open_networks(
    paths: Sequence[str],
    batch_size: int,
    mesh: Mesh,
    inception: tuple[str, FeatureNetwork] | None = None,
) -> dict[str, FeatureNetwork]:
    """Converted checkpoints by the name of their network, in order.

    inception: the path of an InceptionNetwork, and it, where there is one already. Raises
    ValueError as names_of and open_network.
    """
    path, opened = inception or ("", None)
    return {
        name: opened if opened and name == "inception" else open_network(of, batch_size, mesh)[1]
        for name, of in names_of(paths, path).items()
    }


def fd_scale(name: str, network: FeatureNetwork) -> float | None:
    """What FDr6 divides the distance in this network by; None for another architecture."""
    row = NETWORKS[name]
    published = MODELS[row.kind].published
    return row.fd_scale if published in (None, network.architecture) else None
