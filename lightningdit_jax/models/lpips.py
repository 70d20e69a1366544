"""LPIPS: distance of images in the features of a VGG16. Zhang et al. 2018, version 0.1.

Images are NHWC in [-1, 1]. As in evaluation: without the dropout that its training had.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

CONVS_PER_STAGE = (2, 2, 3, 3, 3)  # of VGG16; each stage but the first begins with max pooling
SMALLEST_SIDE = 2 ** (len(CONVS_PER_STAGE) - 1)  # leaves one pixel to the last stage
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


@dataclasses.dataclass(frozen=True)
class LPIPSConfig:
    """channels: of the five stages; the published network has the default."""

    channels: tuple[int, ...] = (64, 128, 256, 512, 512)

    def __post_init__(self):
        if len(self.channels) != len(CONVS_PER_STAGE):
            raise ValueError(
                f"channels is {self.channels}; expected {len(CONVS_PER_STAGE)}, one a stage"
            )


class LPIPS(nnx.Module):
    """Perceptual distance of pairs of images. Parameters are float32; dtype of convolutions."""

    def __init__(self, config: LPIPSConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config, self.dtype = config, np.dtype(dtype)
        convs, width = [], 3
        for channels, count in zip(config.channels, CONVS_PER_STAGE):
            for _ in range(count):
                convs.append(nnx.Conv(width, channels, (3, 3), dtype=self.dtype, rngs=rngs))
                width = channels
        self.convs = nnx.List(convs)
        # Non-negative, so that a distance is one.
        self.heads = nnx.List([nnx.Param(jnp.full(c, 1 / c, jnp.float32)) for c in config.channels])

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Distance of each pair. x, y: [B, H, W, 3] in [-1, 1] -> [B].

        Raises ValueError if the shapes differ or a side is below 16, too few for four poolings.
        """
        return self.distances(x, y).sum(0)

    def distances(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """What each of the five stages adds. [5, B] float32."""
        if x.shape != y.shape or x.ndim != 4 or x.shape[-1] != 3:
            raise ValueError(f"images are {x.shape} and {y.shape}; expected the same [B, H, W, 3]")
        if min(x.shape[1:3]) < SMALLEST_SIDE:
            raise ValueError(
                f"images are {x.shape[1]} x {x.shape[2]}; expected sides of at least "
                f"{SMALLEST_SIDE}: resize them"
            )
        layers = []
        # Two passes rather than one over both: training needs the gradient of one half alone.
        for first, second, head in zip(self.features(x), self.features(y), self.heads):
            difference = jnp.square(_unit_length(first) - _unit_length(second))
            layers.append((difference * head[...]).sum(-1).mean((1, 2)))
        return jnp.stack(layers)

    def features(self, images: jax.Array) -> list[jax.Array]:
        """Outputs of the five stages. [B, H, W, 3] -> [B, H / 2^k, W / 2^k, channels[k]]."""
        x = (images - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
        outputs, convs = [], iter(self.convs)
        for stage, count in enumerate(CONVS_PER_STAGE):
            if stage:
                x = nnx.max_pool(x, (2, 2), (2, 2))
            for _ in range(count):
                x = nnx.relu(next(convs)(x))
            outputs.append(x)
        return outputs


def _unit_length(features: jax.Array) -> jax.Array:
    """Features over their length along the channels, float32; a zero vector stays zero.

    The root is kept from zero, where its gradient is infinite and would make NaN of the product.
    """
    features = features.astype(jnp.float32)
    squares = jnp.square(features).sum(-1, keepdims=True)
    is_zero = squares == 0
    length = jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squares)))
    return features / (length + 1e-10)
