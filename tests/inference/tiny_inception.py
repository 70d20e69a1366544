"""A stand-in for the Inception network that compiles at once."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lightningdit_jax.assembly.loading import Loaded
from lightningdit_jax.inference.quality import features as feature_network
from lightningdit_jax.inference.quality import inception
from lightningdit_jax.models.inception import InceptionFeatures


class TinyInception(nnx.Module):
    """Features of the mean colors of an image's quarters: pool 8, spatial 5, logits 8."""

    def __init__(self, seed: int):
        self.kernel = nnx.Param(jax.random.normal(jax.random.key(seed), (12, 8)))

    def __call__(self, images: jax.Array) -> InceptionFeatures:
        batch, side = images.shape[:2]
        cells = images.astype(jnp.float32).reshape(batch, 2, side // 2, 2, side // 2, 3) / 255
        x = cells.mean((2, 4)).reshape(batch, 12)
        pool = x @ self.kernel[...]
        return InceptionFeatures(pool, x[:, :5], 3 * pool)


def features(seed: int, images: np.ndarray) -> dict[str, np.ndarray]:
    """The same of all images at once."""
    found = TinyInception(seed)(jnp.asarray(images))
    return {name: np.asarray(getattr(found, name)) for name in ("pool", "spatial", "logits")}


def use(monkeypatch) -> None:
    """Checkpoints of Inception named "0", "1", ... are stand-ins of that seed."""
    load = feature_network.load_functional

    def load_stand_in(path, mesh, **options):
        if not path.isdigit():
            return load(path, mesh, **options)
        graphdef, params = nnx.split(TinyInception(int(path)), nnx.Param)
        return Loaded(graphdef, nnx.to_pure_dict(params), {"kind": "inception"})

    monkeypatch.setattr(feature_network, "load_functional", load_stand_in)
    monkeypatch.setattr(inception, "check_kind", lambda path, kind: None)
