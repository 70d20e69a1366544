"""The Inception network that FID is of."""

import jax
from jax.sharding import Mesh

from lightningdit_jax.assembly.loading import check_kind
from lightningdit_jax.inference.quality.features import FeatureNetwork
from lightningdit_jax.inference.quality.network import EvaluationNetwork
from lightningdit_jax.models.inception import SIDE, Inception

NETWORKS = {
    "inception": EvaluationNetwork(
        "inception",
        lambda network, images: network(images).pool,
        {"network": "inception-v3-2015", "resize": f"bilinear-tf1-{SIDE}"},
        fd_scale=1.68,
    )
}


class InceptionNetwork(FeatureNetwork):
    """Features `pool` [N, 2048], `spatial` [N, 2023] and `logits` [N, classes] of images.

    path, batch_size and what is raised: as for FeatureNetwork.
    """

    @staticmethod
    def check(path: str) -> None:
        """Raises what the constructor would for a checkpoint of another kind or none, unread."""
        check_kind(path, "inception")

    def __init__(self, path: str, batch_size: int, mesh: Mesh):
        super().__init__(
            "Inception",
            path,
            "inception",
            _features,
            identity=NETWORKS["inception"].identity,
            batch_size=batch_size,
            mesh=mesh,
        )


def _features(network: Inception, images: jax.Array) -> dict[str, jax.Array]:
    features = network(images)
    return {name: getattr(features, name) for name in ("pool", "spatial", "logits")}
