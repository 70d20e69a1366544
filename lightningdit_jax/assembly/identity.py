"""Which weights and which images: what is kept beside all that is made with them."""

from typing import Any

from lightningdit_jax.assembly.loading import Loaded
from lightningdit_jax.config import DataConfig
from lightningdit_jax.data.images import ImageSource
from lightningdit_jax.data.sources import SOURCES


def weights_identity(path: str, loaded: Loaded) -> dict[str, Any]:
    """Where weights were loaded from, their step and fingerprint. All processes must call it."""
    return {
        "path": path,
        "step": loaded.meta["step"],
        "fingerprint": loaded.fingerprint,
    }


def images_identity(data: DataConfig, images: ImageSource, split: str) -> dict[str, Any]:
    """Source, number and names of images, the same wherever they lie."""
    identity: dict[str, Any] = {"source": data.source, "count": len(images)}
    if (fingerprint := getattr(images, "fingerprint", None)) is not None:
        identity["files"] = fingerprint()
    if "split" in SOURCES[data.source].reads:
        identity["split"] = split
    if "tfds_name" in SOURCES[data.source].reads:
        identity["name"] = data.tfds_name
    return identity
