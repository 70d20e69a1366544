"""The Inception network of FID: the TensorFlow graph of 2015, as pytorch-fid ports it.

Szegedy et al. 2016; its features are what FID, sFID, Inception Score, precision and recall are
defined on (Dhariwal & Nichol 2021, evaluations). Frozen, float32 at the highest precision. Layer
names are those of torchvision. Images are NHWC.
"""

import dataclasses
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

SIDE = 299
SPATIAL_CHANNELS = 7


@dataclasses.dataclass(frozen=True)
class InceptionConfig:
    """num_classes: of the graph of 2015, 1008."""

    num_classes: int = 1008

    def __post_init__(self):
        if self.num_classes < 1:
            raise ValueError(f"num_classes is {self.num_classes}; expected at least 1")


@flax.struct.dataclass
class InceptionFeatures:
    """pool [B, 2048]; spatial [B, 17 17 7 = 2023]; logits [B, num_classes]. All float32."""

    pool: jax.Array
    spatial: jax.Array
    logits: jax.Array


class ConvSpec(NamedTuple):
    """A convolution with normalization and ReLU. With stride 2 it is not padded."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


class Fork(NamedTuple):
    """Two convolutions of the same input, side by side."""

    left: ConvSpec
    right: ConvSpec


# A branch is a sequence of steps: ConvSpec, Fork, or a pooling of 3 x 3: "average" and "maximum"
# keep the size (the average counts no padding), "halve" takes the maximum at stride 2.
Branch = tuple[ConvSpec | Fork | str, ...]


def _block_a(pooled: int) -> tuple[Branch, ...]:
    return (
        (ConvSpec("branch1x1", 64),),
        (ConvSpec("branch5x5_1", 48), ConvSpec("branch5x5_2", 64, (5, 5))),
        (
            ConvSpec("branch3x3dbl_1", 64),
            ConvSpec("branch3x3dbl_2", 96, (3, 3)),
            ConvSpec("branch3x3dbl_3", 96, (3, 3)),
        ),
        ("average", ConvSpec("branch_pool", pooled)),
    )


_BLOCK_B = (
    (ConvSpec("branch3x3", 384, (3, 3), 2),),
    (
        ConvSpec("branch3x3dbl_1", 64),
        ConvSpec("branch3x3dbl_2", 96, (3, 3)),
        ConvSpec("branch3x3dbl_3", 96, (3, 3), 2),
    ),
    ("halve",),
)


def _block_c(width: int) -> tuple[Branch, ...]:
    return (
        (ConvSpec("branch1x1", 192),),
        (
            ConvSpec("branch7x7_1", width),
            ConvSpec("branch7x7_2", width, (1, 7)),
            ConvSpec("branch7x7_3", 192, (7, 1)),
        ),
        (
            ConvSpec("branch7x7dbl_1", width),
            ConvSpec("branch7x7dbl_2", width, (7, 1)),
            ConvSpec("branch7x7dbl_3", width, (1, 7)),
            ConvSpec("branch7x7dbl_4", width, (7, 1)),
            ConvSpec("branch7x7dbl_5", 192, (1, 7)),
        ),
        ("average", ConvSpec("branch_pool", 192)),
    )


_BLOCK_D = (
    (ConvSpec("branch3x3_1", 192), ConvSpec("branch3x3_2", 320, (3, 3), 2)),
    (
        ConvSpec("branch7x7x3_1", 192),
        ConvSpec("branch7x7x3_2", 192, (1, 7)),
        ConvSpec("branch7x7x3_3", 192, (7, 1)),
        ConvSpec("branch7x7x3_4", 192, (3, 3), 2),
    ),
    ("halve",),
)


def _block_e(pooling: str) -> tuple[Branch, ...]:
    return (
        (ConvSpec("branch1x1", 320),),
        (
            ConvSpec("branch3x3_1", 384),
            Fork(
                ConvSpec("branch3x3_2a", 384, (1, 3)),
                ConvSpec("branch3x3_2b", 384, (3, 1)),
            ),
        ),
        (
            ConvSpec("branch3x3dbl_1", 448),
            ConvSpec("branch3x3dbl_2", 384, (3, 3)),
            Fork(
                ConvSpec("branch3x3dbl_3a", 384, (1, 3)),
                ConvSpec("branch3x3dbl_3b", 384, (3, 1)),
            ),
        ),
        (pooling, ConvSpec("branch_pool", 192)),
    )


# The last block pools by the maximum, an oddity of the graph that FID inherits.
_BLOCKS = {
    "Mixed_5b": (192, _block_a(32)),
    "Mixed_5c": (256, _block_a(64)),
    "Mixed_5d": (288, _block_a(64)),
    "Mixed_6a": (288, _BLOCK_B),
    "Mixed_6b": (768, _block_c(128)),
    "Mixed_6c": (768, _block_c(160)),
    "Mixed_6d": (768, _block_c(160)),
    "Mixed_6e": (768, _block_c(192)),
    "Mixed_7a": (768, _BLOCK_D),
    "Mixed_7b": (1280, _block_e("average")),
    "Mixed_7c": (2048, _block_e("maximum")),
}
# What ADM's evaluator reads for sFID is the node `mixed_6/conv`. TensorFlow counts blocks from 5b
# (mixed, mixed_1, ...), which makes it the 1 x 1 branch of 6d; torch-fidelity's table of names in
# that graph says the same. In the graph a layer's own name is that of its last operation, hence
# after ReLU. By reading; not yet compared with the graph itself.
SPATIAL_BLOCK, SPATIAL_BRANCH = "Mixed_6d", "branch1x1"


class FrozenBatchNorm(nnx.Module):
    """Normalization by fixed statistics, eps 1e-3. [B, H, W, C] -> the same."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.mean = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.var = nnx.Param(jnp.ones(channels, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        factor = self.scale[...] * jax.lax.rsqrt(self.var[...] + 1e-3)
        return (x - self.mean[...]) * factor + self.bias[...]


class ConvNormReLU(nnx.Module):
    """Convolution without bias, normalization, ReLU."""

    def __init__(
        self, in_channels: int, spec: ConvSpec, *, padding: str | None = None, rngs: nnx.Rngs
    ):
        self.conv = nnx.Conv(
            in_channels,
            spec.channels,
            spec.kernel,
            spec.stride,
            padding=padding or ("SAME" if spec.stride == 1 else "VALID"),
            use_bias=False,
            precision=jax.lax.Precision.HIGHEST,
            rngs=rngs,
        )
        self.bn = FrozenBatchNorm(spec.channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.bn(self.conv(x)))


class Mixed(nnx.Module):
    """A block of parallel branches, their outputs side by side."""

    def __init__(self, in_channels: int, branches: tuple[Branch, ...], *, rngs: nnx.Rngs):
        self.branches = branches
        for branch in branches:
            width = in_channels
            for step in branch:
                for spec in step if isinstance(step, Fork) else (step,):
                    if isinstance(spec, ConvSpec):
                        setattr(self, spec.name, ConvNormReLU(width, spec, rngs=rngs))
                        out = spec.channels
                width = width if isinstance(step, str) else out

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([self._run(branch, x) for branch in self.branches], axis=-1)

    def _run(self, branch: Branch, x: jax.Array) -> jax.Array:
        for step in branch:
            if isinstance(step, Fork):
                x = jnp.concatenate([getattr(self, spec.name)(x) for spec in step], axis=-1)
            elif isinstance(step, ConvSpec):
                x = getattr(self, step.name)(x)
            elif step == "average":
                x = nnx.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)
            else:
                strides, padding = ((1, 1), "SAME") if step == "maximum" else ((2, 2), "VALID")
                x = nnx.max_pool(x, (3, 3), strides, padding)
        return x


class Inception(nnx.Module):
    """Features of images for generative metrics. dtype has to be float32."""

    def __init__(self, config: InceptionConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        if np.dtype(dtype) != np.float32:
            raise ValueError(f"dtype is {np.dtype(dtype)}; metrics are defined in float32")
        self.config = config

        def conv(inputs: int, outputs: int, size: int, stride: int, padding: str) -> ConvNormReLU:
            spec = ConvSpec("", outputs, (size, size), stride)
            return ConvNormReLU(inputs, spec, padding=padding, rngs=rngs)

        self.Conv2d_1a_3x3 = conv(3, 32, 3, 2, "VALID")
        self.Conv2d_2a_3x3 = conv(32, 32, 3, 1, "VALID")
        self.Conv2d_2b_3x3 = conv(32, 64, 3, 1, "SAME")
        self.Conv2d_3b_1x1 = conv(64, 80, 1, 1, "VALID")
        self.Conv2d_4a_3x3 = conv(80, 192, 3, 1, "VALID")
        for name, (width, branches) in _BLOCKS.items():
            setattr(self, name, Mixed(width, branches, rngs=rngs))
        self.fc = nnx.Linear(
            2048, config.num_classes, precision=jax.lax.Precision.HIGHEST, rngs=rngs
        )

    def __call__(self, images: jax.Array) -> InceptionFeatures:
        """Features of images of any size. [B, H, W, 3], values 0 to 255, of any type.

        The logits are those of the Inception Score: without the bias, as ADM's evaluator.
        """
        if images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"images have shape {images.shape}; expected [B, H, W, 3]")
        x = (resize_tf1(images.astype(jnp.float32), SIDE) - 128.0) / 128.0
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = nnx.max_pool(x, (3, 3), (2, 2), "VALID")
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = nnx.max_pool(x, (3, 3), (2, 2), "VALID")
        for name in _BLOCKS:
            if name == SPATIAL_BLOCK:
                spatial = getattr(self.Mixed_6d, SPATIAL_BRANCH)(x)[..., :SPATIAL_CHANNELS]
            x = getattr(self, name)(x)
        pool = x.mean((1, 2))
        logits = jnp.matmul(pool, self.fc.kernel[...], precision=jax.lax.Precision.HIGHEST)
        return InceptionFeatures(pool, spatial.reshape(len(x), -1), logits)


def resize_tf1(images: jax.Array, side: int) -> jax.Array:
    """Bilinear resize as TensorFlow 1: pixel i of the output lies at i H / side of the input.

    Without align_corners and without half-pixel centers. [B, H, W, C] -> [B, side, side, C].
    """

    def taps(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        places = np.arange(side, dtype=np.float32) * np.float32(length / side)
        low = places.astype(np.int32)
        return low, np.minimum(low + 1, length - 1), places - low

    low, high, weight = taps(images.shape[1])
    weight = weight[:, None, None]
    rows_low, rows_high = images[:, low], images[:, high]
    low, high, across = taps(images.shape[2])
    across = across[:, None]
    top = rows_low[:, :, low] + (rows_low[:, :, high] - rows_low[:, :, low]) * across
    bottom = rows_high[:, :, low] + (rows_high[:, :, high] - rows_high[:, :, low]) * across
    return top + (bottom - top) * weight
