"""ConvNeXt V2, a convolutional network that images are compared by. Woo et al. 2023.

As in timm and in the authors' code. Images are NHWC.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from lightningdit_jax.models.foundation import patch_grid
from lightningdit_jax.models.layers import linear
from lightningdit_jax.models.stack import make_stack, run_stack

_EPS = 1e-6
STEM, STEP = 4, 2  # strides of the stem and of each stage after the first


@dataclasses.dataclass(frozen=True)
class ConvNeXtV2Config:
    """depths: blocks of each stage; dims: their widths. Raises ValueError where they do not fit."""

    depths: tuple[int, ...] = (3, 3, 27, 3)
    dims: tuple[int, ...] = (128, 256, 512, 1024)

    def __post_init__(self):
        for name, values in (("depths", self.depths), ("dims", self.dims)):
            if not values or min(values) < 1:
                raise ValueError(f"{name} is {values}; expected numbers of at least 1, one a stage")
        if len(self.depths) != len(self.dims):
            raise ValueError(
                f"depths is {self.depths} and dims is {self.dims}; expected as many of one as of "
                "the other"
            )

    @property
    def patch_size(self) -> int:
        """Pixels along a side for one position of the last stage."""
        return STEM * STEP ** (len(self.dims) - 1)

    @property
    def hidden_size(self) -> int:
        """Width of the last stage."""
        return self.dims[-1]


CONVNEXTV2_BASE = ConvNeXtV2Config()


def _norm(dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(dim, epsilon=_EPS, use_fast_variance=False, dtype=dtype, rngs=rngs)


def _strided(
    inputs: int, outputs: int, stride: int, *, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Conv:
    """A convolution over disjoint squares."""
    size = (stride, stride)
    return nnx.Conv(inputs, outputs, size, size, padding="VALID", dtype=dtype, rngs=rngs)


class GlobalResponseNorm(nnx.Module):
    """x + scale x N(x) + bias; N: a channel's length over the image by the channels' mean length.

    Woo et al. 2023, sec. 3.2. [B, H, W, D] -> the same.
    """

    def __init__(self, dim: int):
        self.scale = nnx.Param(jnp.zeros(dim, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(dim, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        lengths = jnp.sqrt(jnp.square(x32).sum((1, 2), keepdims=True))
        response = lengths / (lengths.mean(-1, keepdims=True) + _EPS)
        return (x32 + self.scale[...] * (x32 * response) + self.bias[...]).astype(x.dtype)


class ConvNeXtV2Block(nnx.Module):
    """Depthwise 7x7, norm, linear, GELU, GRN, linear, and the input. [B, H, W, D] -> the same."""

    def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv_dw = nnx.Conv(dim, dim, (7, 7), feature_group_count=dim, dtype=dtype, rngs=rngs)
        self.norm = _norm(dim, dtype=dtype, rngs=rngs)
        self.fc1 = linear(dim, 4 * dim, dtype=dtype, rngs=rngs)
        self.grn = GlobalResponseNorm(4 * dim)
        self.fc2 = linear(4 * dim, dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = self.fc1(self.norm(self.conv_dw(x)))
        return x + self.fc2(self.grn(nnx.gelu(hidden, approximate=False)))


class ConvNeXtV2Stage(nnx.Module):
    """Norm and half the resolution, but in the first stage, then blocks, stacked and scanned."""

    def __init__(self, inputs: int, dim: int, depth: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.is_first = inputs == 0
        if not self.is_first:
            self.norm = _norm(inputs, dtype=dtype, rngs=rngs)
            self.conv = _strided(inputs, dim, STEP, dtype=dtype, rngs=rngs)

        def make_block(rngs: nnx.Rngs) -> ConvNeXtV2Block:
            return ConvNeXtV2Block(dim, dtype=dtype, rngs=rngs)

        self.blocks = make_stack(make_block, depth, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.is_first:
            x = self.conv(self.norm(x))
        return run_stack(self.blocks, lambda block, x: block(x), x)[0]


class ConvNeXtV2(nnx.Module):
    """Features of an image. Parameters are float32; dtype is that of products and convolutions."""

    def __init__(self, config: ConvNeXtV2Config, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config, self.dtype = config, np.dtype(dtype)
        dtype, widths = self.dtype, (0, *config.dims)
        self.stem_conv = _strided(3, config.dims[0], STEM, dtype=dtype, rngs=rngs)
        self.stem_norm = _norm(config.dims[0], dtype=dtype, rngs=rngs)
        self.stages = nnx.List(
            ConvNeXtV2Stage(*sizes, dtype=dtype, rngs=rngs)
            for sizes in zip(widths, config.dims, config.depths)
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Last stage, before the classifier's norm. [B, H, W, 3] -> [B, H/32, W/32, D].

        Raises ValueError if 32 does not divide the sides, or the images are not RGB.
        """
        patch_grid(images, self.config.patch_size)
        x = self.stem_norm(self.stem_conv(images))
        for stage in self.stages:
            x = stage(x)
        return x

    def pooled(self, images: jax.Array) -> jax.Array:
        """One vector an image: the mean over positions. Images as for __call__. -> [B, D]."""
        return self(images).mean(axis=(1, 2))
