"""What a network is to those that measure distances in its features: a row of networks.py."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lightningdit_jax.models.foundation import Normalization


def _any(architecture: Any) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class EvaluationNetwork:
    """A network whose features of images are compared. One row, in a file of its own.

    kind: of the registry, which a converted checkpoint says of itself. accepts: whether a
        checkpoint of that kind is of this row, by its architecture, where a kind has several rows.
    features(module, images uint8 [b, H, W, 3]) -> float32 [b, D]: resize, normalization and
        pooling inside; traced once, at the highest precision of matrix products.
    identity: what decides the features beside the weights, in words, by field (`network`, `resize`,
        `pixels`, `pooling`). Reference files hold it, and others are refused.
    fd_scale: what FDr6 divides the Fréchet distance in these features by, of the architecture that
        the registry calls published; None where this is none of the six.
    is_of_cmmd: whether CMMD is what is measured in the features, and nothing else.
    """

    kind: str
    features: Callable[[Any, jax.Array], jax.Array]
    identity: Mapping[str, str]
    fd_scale: float | None = None
    is_of_cmmd: bool = False
    accepts: Callable[[Any], bool] = _any


def normalized_square(images: jax.Array, side: int, normalization: Normalization) -> jax.Array:
    """Images as networks for squares were trained on them. uint8 [b, H, W, 3] -> [b, s, s, 3].

    Bicubic resize with antialiasing (a = -0.5) in float32 that is neither rounded nor clipped, as
    torch.nn.functional.interpolate(antialias=True); then mean and deviation of pixels in [0, 1].
    """
    pixels = images.astype(jnp.float32) / 255.0
    if images.shape[1:3] != (side, side):
        shape = (len(images), side, side, 3)
        pixels = jax.image.resize(pixels, shape, "cubic", antialias=True)
    mean, std = map(jnp.asarray, normalization)
    return (pixels - mean) / std
