"""Vision transformers that latents are aligned with: DINOv2 and MAE.

Oquab et al. 2023, He et al. 2022; as in timm, on which the release builds. Images are NHWC.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from lightningdit_jax.models.layers import SwiGLU, linear
from lightningdit_jax.models.stack import Activations, make_stack, run_stack


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Architecture of an encoder. Raises ValueError naming the field that does not fit.

    pos_embed_grid: side of the grid that the position table was trained on; other grids resample
    it. class_pos_embed: the table has a row for the class token too. layer_scale: learned scale of
    each branch (DINOv2). num_registers: tokens beside the class token that stand for no patch.
    use_swiglu: gated MLPs, mlp_hidden wide each of gate and value (DINOv2's giant).
    """

    patch_size: int
    hidden_size: int
    depth: int
    num_heads: int
    mlp_hidden: int
    pos_embed_grid: int
    layer_scale: bool
    num_registers: int
    class_pos_embed: bool
    use_swiglu: bool = False

    def __post_init__(self):
        for field in dataclasses.fields(self):
            least = 0 if field.name == "num_registers" else 1
            if field.type is int and getattr(self, field.name) < least:
                raise ValueError(
                    f"{field.name} is {getattr(self, field.name)}; expected at least {least}"
                )
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; expected a multiple of num_heads, "
                f"{self.num_heads}"
            )


def _large(**fields: Any) -> ViTConfig:
    return ViTConfig(
        hidden_size=1024,
        depth=24,
        num_heads=16,
        mlp_hidden=4096,
        num_registers=0,
        class_pos_embed=True,
        **fields,
    )


# ViT-L, which the release's configs name.
DINOV2_LARGE = _large(patch_size=14, pos_embed_grid=37, layer_scale=True)
MAE_LARGE = _large(patch_size=16, pos_embed_grid=14, layer_scale=False)


def resize_bilinear(images: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resize about pixel centers, without antialiasing. [B, H, W, C] -> [B, *size, C]."""
    if images.shape[1:3] == size:
        return images
    shape = (len(images), *size, images.shape[-1])
    return jax.image.resize(images, shape, "bilinear", antialias=False)


def resize_bicubic(images: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bicubic resize about pixel centers, without antialiasing. [B, H, W, C] -> [B, *size, C].

    a = -0.75 and the border repeated, as torch.nn.functional.interpolate, which REPA shows images
    to its teachers by. In float32.
    """
    for axis, length in ((1, size[0]), (2, size[1])):
        if images.shape[axis] != length:
            matrix = jnp.asarray(_cubic_weights(images.shape[axis], length), jnp.float32)
            resized = jnp.tensordot(images, matrix, (axis, 1), precision="highest")
            images = jnp.moveaxis(resized, -1, axis)
    return images


def _cubic_weights(inputs: int, outputs: int) -> np.ndarray:
    """What each output takes of each input along an axis, [outputs, inputs]. Keys 1981."""
    centers = (np.arange(outputs) + 0.5) * inputs / outputs - 0.5
    matrix = np.zeros((outputs, inputs))
    for step in (-1, 0, 1, 2):
        place = np.floor(centers) + step
        d = np.abs(centers - place)
        near, far = (1.25 * d - 2.25) * d**2 + 1, -0.75 * (((d - 5) * d + 8) * d - 4)
        column = np.clip(place, 0, inputs - 1).astype(int)
        np.add.at(matrix, (np.arange(outputs), column), np.where(d <= 1, near, far))
    return matrix


def resample_positions(table: jax.Array, grid: int, size: tuple[int, int]) -> jax.Array:
    """A position table on another grid. [P + grid grid, D] -> [P + h w, D], the first P rows kept.

    Bicubic with a = -0.5 and antialiasing in float32, as timm's resample_abs_pos_embed.
    """
    if size == (grid, grid):
        return table
    prefix, patches = table[: -(grid**2)], table[-(grid**2) :]
    patches = patches.reshape(grid, grid, -1)
    patches = jax.image.resize(patches, (*size, patches.shape[-1]), "cubic", antialias=True)
    return jnp.concatenate([prefix, patches.reshape(-1, patches.shape[-1])])


def _norm(dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(dim, epsilon=1e-6, use_fast_variance=False, dtype=dtype, rngs=rngs)


class SelfAttention(nnx.Module):
    """Multi-head self-attention. [B, N, D] -> [B, N, D]."""

    def __init__(self, dim: int, num_heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        head_dim = dim // num_heads
        self.qkv = linear(dim, (3, num_heads, head_dim), dtype=dtype, rngs=rngs)
        self.proj = linear((num_heads, head_dim), dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        qkv = self.qkv(x)  # [B, N, 3, H, hd]
        q, k, v = (qkv[:, :, i] for i in range(3))
        return self.proj(jax.nn.dot_product_attention(q, k, v))


class Mlp(nnx.Module):
    """Linear, exact GELU, linear. [..., D] -> [..., D]."""

    def __init__(self, dim: int, hidden: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.fc1 = linear(dim, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = linear(hidden, dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(nnx.gelu(self.fc1(x), approximate=False))


class LayerScale(nnx.Module):
    """x times a learned vector. Touvron et al. 2021. [..., D] -> [..., D]."""

    def __init__(self, dim: int):
        self.gamma = nnx.Param(jnp.full(dim, 1e-5, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.gamma[...].astype(x.dtype)


class ViTBlock(nnx.Module):
    """Pre-norm transformer block. [B, N, D] -> [B, N, D]. Dosovitskiy et al. 2021."""

    def __init__(self, config: ViTConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        dim = config.hidden_size
        self.layer_scale = config.layer_scale
        self.norm1 = _norm(dim, dtype=dtype, rngs=rngs)
        self.attn = SelfAttention(dim, config.num_heads, dtype=dtype, rngs=rngs)
        self.norm2 = _norm(dim, dtype=dtype, rngs=rngs)
        mlp = SwiGLU if config.use_swiglu else Mlp
        self.mlp = mlp(dim, config.mlp_hidden, dtype=dtype, rngs=rngs)
        if self.layer_scale:
            self.ls1, self.ls2 = LayerScale(dim), LayerScale(dim)

    def __call__(self, x: jax.Array) -> jax.Array:
        branch = self.attn(self.norm1(x))
        x = x + (self.ls1(branch) if self.layer_scale else branch)
        branch = self.mlp(self.norm2(x))
        return x + (self.ls2(branch) if self.layer_scale else branch)


class ViT(nnx.Module):
    """Patch features of an image. Parameters are float32; dtype is that of matmuls.

    Blocks are stacked along a leading axis and scanned.
    """

    def __init__(self, config: ViTConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config, self.dtype = config, np.dtype(dtype)
        dtype, dim = self.dtype, config.hidden_size
        normal = nnx.initializers.normal(0.02)
        self.patch_embed = linear(config.patch_size**2 * 3, dim, dtype=dtype, rngs=rngs)
        self.cls_token = nnx.Param(normal(rngs.params(), (dim,), jnp.float32))
        rows = config.pos_embed_grid**2 + config.class_pos_embed
        self.pos_embed = nnx.Param(normal(rngs.params(), (rows, dim), jnp.float32))
        if config.num_registers:
            shape = (config.num_registers, dim)
            self.reg_token = nnx.Param(normal(rngs.params(), shape, jnp.float32))

        def make_block(rngs: nnx.Rngs) -> ViTBlock:
            return ViTBlock(config, dtype=dtype, rngs=rngs)

        self.blocks = make_stack(make_block, config.depth, rngs)
        self.norm = _norm(dim, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Patch tokens after the last norm. [B, H, W, 3] -> [B, H/p, W/p, D].

        Raises ValueError if the patch does not divide the sides, or the images are not RGB.
        """
        return self.with_activations(images, ())[0]

    def with_activations(
        self, images: jax.Array, activations: Sequence[int]
    ) -> tuple[jax.Array, Activations]:
        """The same, and all tokens [B, N, D] after some blocks by their number, counted from 1.

        Tokens are class, registers and patches, before the last norm. Raises ValueError as
        __call__, and for a number that no block has.
        """
        patch = self.config.patch_size
        if images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"images have shape {images.shape}; expected [B, H, W, 3]")
        if images.shape[1] % patch or images.shape[2] % patch:
            raise ValueError(
                f"images are {images.shape[1]} x {images.shape[2]}; expected sides that are "
                f"multiples of {patch}: resize them"
            )
        size = (images.shape[1] // patch, images.shape[2] // patch)
        tokens, kept = run_stack(
            self.blocks,
            lambda block, x: block(x),
            self._embed(images, size),
            activations=activations,
        )
        patches = self.norm(tokens)[:, -size[0] * size[1] :]
        return patches.reshape(len(images), *size, -1), kept

    def _embed(self, images: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Tokens with their positions: class, registers, patches. -> [B, N, D]."""
        config, batch, patch = self.config, len(images), self.config.patch_size
        x = images.reshape(batch, size[0], patch, size[1], patch, 3)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, size[0] * size[1], -1)
        x = self.patch_embed(x)
        positions = resample_positions(self.pos_embed[...], config.pos_embed_grid, size)
        class_token = self.cls_token[...][None]
        if config.class_pos_embed:
            class_token, positions = class_token + positions[:1], positions[1:]
        prefix = class_token
        if config.num_registers:
            prefix = jnp.concatenate([prefix, self.reg_token[...]])
        prefix = jnp.broadcast_to(prefix, (batch, *prefix.shape)).astype(self.dtype)
        return jnp.concatenate([prefix, (x + positions).astype(self.dtype)], axis=1)
